"""The control socket: how commands on the same machine talk to the running daemon. One JSON object a line.

{"op": "status"}                      ->  {"status": {…}}
{"op": "ask", "request": {…}}         ->  {"delta": {…}} …, {"final": {…}}
{"op": "adapters"}                    ->  {"adapters": {"in_use": ["sha256", …], "resident": {"sha256": bytes}}}
{"op": "quarantine"}                  ->  {"quarantine": [{…}, …]}
{"op": "release", "id": "…" or null}  ->  {"released": [{…}, …]}, null for all
{"op": "updates"}                     ->  {"updates": {"model": {…}, "adapter:name": {…}, …}}
{"op": "cancel_updates"}              ->  {"changed": ["model", …]}
{"op": "roll_back"}                   ->  {"changed": ["model", …]}
anything else                         ->  {"error": "cannot …"}
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.errors import AgentError, ControlError
from agent.quarantine import Item
from contract.answers import Delta, Final
from contract.errors import Refused
from contract.requests import Request, decode_request

NAME = "agent.sock"
MAX_LINE_BYTES = 1 << 20

Ask = Callable[[Request, Callable[[Delta], None], Callable[[Final], None]], None]


class Updates(Protocol):
    """What commands ask of updates; `agent.update.updater` says more."""

    def describe(self) -> dict[str, Any]:
        """Where each of them is."""

    def cancel(self) -> list[str]:
        """Stops what is under way; which."""

    def roll_back(self) -> list[str]:
        """Goes back to what was good; which."""


class Control:
    """The daemon's end."""

    def __init__(
        self,
        state_dir: Path,
        *,
        status: Callable[[], dict[str, Any]],
        ask: Ask,
        adapters: Callable[[], dict[str, Any]],
        quarantined: Callable[[], list[Item]],
        release: Callable[[str | None], Awaitable[list[Item]]],
        updates: Updates,
    ) -> None:
        self._state_dir = state_dir
        self._status = status
        self._ask = ask
        self._adapters = adapters
        self._quarantined = quarantined
        self._release = release
        self._updates = updates
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Only the daemon's own user (and root) can connect."""
        with short_path(self._state_dir) as path:
            (self._state_dir / NAME).unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(path)
        (self._state_dir / NAME).chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_LINE_BYTES)

    async def stop(self) -> None:
        """Stops listening."""
        if self._server:
            self._server.close()
        (self._state_dir / NAME).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = await self._answer(line, writer)
                if answer is not None:
                    _say(writer, answer)
                await writer.drain()
        except (ValueError, ConnectionError):
            pass  # an endless line, or the command went away
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, Any] | None:
        try:
            message = json.loads(line)
            op = message["op"]
            if op == "status":
                return {"status": self._status()}
            if op == "ask":
                request = decode_request(json.dumps(message["request"]).encode())
                self._ask(
                    request,
                    lambda delta: _say(writer, {"delta": msgspec.to_builtins(delta)}),
                    lambda final: _say(writer, {"final": msgspec.to_builtins(final)}),
                )
                return None
            if op == "adapters":
                return {"adapters": self._adapters()}
            if op == "quarantine":
                return {"quarantine": msgspec.to_builtins(self._quarantined())}
            if op == "updates":
                return {"updates": self._updates.describe()}
            if op == "cancel_updates":
                return {"changed": self._updates.cancel()}
            if op == "roll_back":
                return {"changed": self._updates.roll_back()}
            if op == "release":
                item_id = message["id"]
                return {"released": msgspec.to_builtins(await self._release(None if item_id is None else str(item_id)))}
        except Refused as no:
            return {"error": no.message, "status_code": int(no.status)}
        except AgentError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        return {"error": "cannot understand the control message"}


def _say(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


def call(state_dir: Path, message: dict[str, Any], timeout_s: float) -> Iterator[dict[str, Any]]:
    """Sends a message to the running daemon and gives its answers as they come.

    Raises:
        ControlError: no daemon listens, or it does not answer in time.
    """
    try:
        with short_path(state_dir) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(path)
            sock.sendall(json.dumps(message).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
    except TimeoutError as error:
        raise ControlError(f"cannot get an answer from the agent in {timeout_s:g} s") from error
    except (OSError, ValueError) as error:
        raise ControlError(f"cannot reach an agent at {state_dir / NAME}: {error}; is it running?") from error


@contextmanager
def short_path(state_dir: Path) -> Iterator[str]:
    """A path to the socket that fits the 107 bytes a Unix socket's name may have, however deep the directory is."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{NAME}"
    finally:
        os.close(directory)
