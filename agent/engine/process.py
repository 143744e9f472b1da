"""An engine's process as its supervisor sees it: a child, or the child of an engine unit that systemd started for it.

What is said to a unit over its socket, one JSON object a line:

    daemon → unit   one byte with two descriptors: the engine's sockets
    unit → daemon   {"pid": 123}, then at the process's end {"code": -11, "said": "…"}
    daemon closes   (its half of the connection) the unit kills the process, says how it ended, and ends
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from typing import Protocol

from agent.engine.isolation import environment

# The last line that names a place in code. Others are dropped unread: a C++ exception can quote a piece of an answer.
_PLACE = re.compile(rb".*(GGML_ASSERT\(|engine failed: )")
MAX_SAID = 300


class Process(Protocol):
    """A process that was started."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """How it ended, a signal as a negative number; None while it runs."""

    def kill(self) -> None:
        """Ends it at once."""

    async def wait(self) -> str:
        """Waits for its end; returns its last words."""


def command(sockets: list[socket.socket]) -> list[str]:
    """The engine's command line, for sockets that it inherits."""
    return [sys.executable, "-m", "agent.engine", *(str(sock.fileno()) for sock in sockets)]


async def start(sockets: list[socket.socket], unit_socket: str) -> Process:
    """Starts an engine on the two sockets, in a unit where there is one behind `unit_socket`.

    Raises:
        OSError: it cannot be started.
    """
    return await (_InUnit.start(sockets, unit_socket) if unit_socket else _Child.start(sockets))


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self._said = asyncio.create_task(_last_words(process.stderr))

    @classmethod
    async def start(cls, sockets: list[socket.socket]) -> "_Child":
        return cls(
            await asyncio.create_subprocess_exec(
                *command(sockets), pass_fds=[sock.fileno() for sock in sockets], env=environment(os.environ),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )
        )  # fmt: skip

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def kill(self) -> None:
        if self.returncode is None:
            # Not `process.kill`: it looks for the exit code itself, and would take it away from asyncio.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> str:
        await self._process.wait()
        return await self._said


class _InUnit:
    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, sockets: list[socket.socket], path: str) -> "_InUnit":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)  # systemd accepts at once
            socket.send_fds(sock, [b"S"], [each.fileno() for each in sockets])
            sock.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            return cls(int(json.loads(await reader.readline())["pid"]), reader, writer)
        except (ValueError, KeyError, TypeError) as error:
            raise OSError("no unit answers") from error

    def kill(self) -> None:
        self._writer.write_eof()  # the process is another user's: the unit does it

    async def wait(self) -> str:
        try:
            end = json.loads(await self._reader.readline())
            self.returncode = int(end["code"])
            return str(end["said"])
        except (OSError, ValueError, KeyError, TypeError):
            self.returncode = -signal.SIGKILL  # the unit ended with it, such as for want of memory
            return ""
        finally:
            self._writer.close()


def last_place(line: bytes, last: bytes) -> bytes:
    """The line, when it names a place in code, else the last one that did."""
    return line.strip() if _PLACE.match(line) else last


async def _last_words(stream: asyncio.StreamReader | None) -> str:
    last = b""
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the buffer
            continue
        if not line:
            break
        last = last_place(line, last)
    return last.decode(errors="replace")[:MAX_SAID]
