"""Commands to nodes: one message there, and the event that answers. Each ends, at the latest with its deadline."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from contract.ids import new_request_id
from contract.status import Status
from contract.steering import Command
from contract.topics import NodeCommand, Topic
from fleet.api.steering import MAX_TIMEOUT_S, CommandOutcome, Op
from fleet.errors import UsageError


class Answer(Struct, frozen=True):
    """What the data of a `cmd` event says."""

    id: str
    status: int
    error: str | None = None
    result: dict[str, Any] | None = None


class NodeCommands:
    """Sends commands, and brings answers to who waits for them."""

    def __init__(self, post: Callable[[Topic, bytes], bool], now_ms: Callable[[], int]) -> None:
        self._post = post
        self._now_ms = now_ms
        self._waiting: dict[tuple[str, str], tuple[asyncio.AbstractEventLoop, asyncio.Future[Answer]]] = {}

    async def run(self, node: str, op: str, args: dict[str, Any], timeout_s: float, *, online: bool) -> CommandOutcome:
        """Sends a command and waits for its answer. `check` has been asked before."""
        command = Command(new_request_id(), op, args, self._now_ms() + round(timeout_s * 1000))

        def outcome(kind: Literal["done", "failed", "offline", "late"], answer: Answer | None = None) -> CommandOutcome:
            said = msgspec.structs.asdict(answer) if answer else {}
            return CommandOutcome(**{"id": command.id, "node": node, "op": op, "outcome": kind, **said})

        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        self._waiting[node, command.id] = loop, answered
        try:
            if not online or not self._post(NodeCommand(node), msgspec.json.encode(command)):
                return outcome("offline")
            answer = await asyncio.wait_for(answered, timeout_s)
        except TimeoutError:
            return outcome("late")
        finally:
            del self._waiting[node, command.id]
        if answer.status == Status.DEADLINE:
            return outcome("late", answer)
        return outcome("done" if answer.status == Status.OK else "failed", answer)

    def take(self, node: str, data: dict[str, Any]) -> None:
        """An answer has come, on any thread. Nobody may wait for it any more.

        Raises:
            msgspec.ValidationError: it is none.
        """
        answer = msgspec.convert(data, Answer)
        if waiting := self._waiting.get((node, answer.id)):
            loop, answered = waiting
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, answered, answer)


def _settle(answered: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not answered.done():
        answered.set_result(answer)


def check(op: str, timeout_s: float) -> None:
    """Whether this can be a command.

    Raises:
        UsageError: it cannot.
    """
    if op not in get_args(Op):
        raise UsageError(f"cannot send command {op!r}: there are {', '.join(get_args(Op))}")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"cannot wait {timeout_s:g} s: a command takes more than 0 and at most {MAX_TIMEOUT_S:g} s")
