"""One-shot commands of the controller: each runs once, and ends by its deadline with an answer.

A command is on disk before it runs, and its answer goes into the outbox in the transaction that stores it. One that
comes again gets the same answer again; one that the agent died of is answered at the next start.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from agent.errors import AgentError, StoreError
from agent.events import Events
from agent.incoming import Incoming
from agent.logs import describe
from agent.post import Post
from agent.store.commands import Commands
from agent.store.outbox import Letter
from contract.enrolment import DAY_MS
from contract.errors import Refused
from contract.limits import MAX_TTL_MS
from contract.status import Status
from contract.steering import Command

log = structlog.get_logger()


class Operation(NamedTuple):
    """Something that can be ordered: what its `args` are, and what does it in so many milliseconds at most."""

    args: type[msgspec.Struct]
    run: Callable[[Any, int], Awaitable[dict[str, Any]]]


class Orders:
    """Takes commands from the link."""

    def __init__(
        self,
        commands: Commands,
        operations: Mapping[str, Operation],
        *,
        events: Events,
        post: Post,
        now_ms: Callable[[], int],
    ) -> None:
        """`now_ms` is the time as well as it is known."""
        self._commands = commands
        self._operations = operations
        self._events = events
        self._post = post
        self._now_ms = now_ms

    async def answer_the_cut_off(self) -> None:
        """Answers what ran when the last run ended."""
        for stored in self._commands.unanswered():
            failure = _failure(Status.ENGINE_FAILED, f"cannot tell how {stored.op} ended: the agent ended while it ran")
            await self._answer(stored.id, stored.op, failure)

    async def take(self, message: Incoming) -> None:
        """Takes a command as it came."""
        try:
            command = msgspec.json.decode(message.payload, type=Command)
        except (msgspec.MsgspecError, RecursionError):
            log.warning("command cannot be read and is ignored", bytes=len(message.payload))
            message.ack()
            return
        try:
            is_new = await self._commands.begin(command.id, command.op, command.exp)
        except StoreError as error:
            log.error("cannot note a command", why=str(error))
            await self._post.write(self._letter(command.id, command.op, _failure(Status.NO_SPACE, str(error))))
            message.ack()
            return
        message.ack()
        if is_new:
            log.info("command", op=command.op, id=command.id)
            await self._answer(command.id, command.op, await self._run(command))
        elif (stored := self._commands.find(command.id)) and stored.answer is not None:
            await self._post.write(stored.answer)

    async def purge(self) -> None:
        """Forgets commands that expired a day ago.

        Raises:
            StoreError: they cannot be deleted.
        """
        await self._commands.purge(self._now_ms() - DAY_MS)

    async def _run(self, command: Command) -> dict[str, Any]:
        left_ms = command.exp - self._now_ms()
        if left_ms <= 0:
            return _failure(Status.DEADLINE, f"cannot run {command.op}: it expired {-left_ms} ms ago by this clock")
        if left_ms > MAX_TTL_MS:
            return _failure(
                Status.INVALID, f"cannot accept exp = {command.exp}: at most {MAX_TTL_MS} ms ahead are accepted"
            )
        operation = self._operations.get(command.op)
        if operation is None:
            known = ", ".join(sorted(self._operations))
            return _failure(Status.NOT_FOUND, f"cannot run {command.op!r}: this node has {known}")
        try:
            args = msgspec.convert(command.args, operation.args)
            async with asyncio.timeout(left_ms / 1000):
                return {"status": int(Status.OK), "result": await operation.run(args, left_ms)}
        except msgspec.ValidationError as error:
            return _failure(Status.INVALID, f"cannot run {command.op} with these args: {error}")
        except TimeoutError:
            return _failure(Status.DEADLINE, f"cannot finish {command.op} before it expired; what it has begun goes on")
        except Refused as no:
            return _failure(no.status, no.message)
        except AgentError as error:
            return _failure(Status.ENGINE_FAILED, str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the command ends with an answer
            log.error("cannot run a command", op=command.op, **describe(error))
            return _failure(Status.ENGINE_FAILED, f"cannot run {command.op}: the node has a fault; see its log")

    async def _answer(self, command_id: str, op: str, outcome: dict[str, Any]) -> None:
        letter = self._letter(command_id, op, outcome)
        try:
            key = await self._commands.end(command_id, letter)
        except StoreError as error:
            log.error("cannot store the answer to a command; sent without", why=str(error))
            await self._post.write(letter)
        else:
            self._post.send(key, letter)

    def _letter(self, command_id: str, op: str, outcome: dict[str, Any]) -> Letter:
        return self._events.letter("cmd", op, {"id": command_id, **outcome})


def _failure(status: Status, message: str) -> dict[str, Any]:
    return {"status": int(status), "error": message}
