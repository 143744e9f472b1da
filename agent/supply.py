"""Brings adapters from the store into an engine, ahead of the jobs that need them.

A job whose adapter the engine lacks is held back until the adapter is there; others go on. A node sends an engine up to
twice as many jobs as decode together, so the adapters of those that wait are read while others decode.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from agent.engine import frames
from agent.errors import AgentError
from agent.eviction import FULL_USES, Candidate, NotEnoughError, choose
from contract.status import Status

log = structlog.get_logger()

# An engine holds a descriptor for each, of which it may have 512.
MAX_GIVEN = 256


class Engine(Protocol):
    """What takes frames and adapters."""

    def send(self, frame: frames.ToEngine) -> None:
        """Sends a frame."""

    def send_adapter(self, sha256: str, fd: int) -> None:
        """Gives it an adapter's file."""


class Supply:
    """The adapters of one engine at a time."""

    def __init__(
        self,
        *,
        open_adapter: Callable[[str], Awaitable[int]],
        budget_bytes: int,
        in_use: Callable[[], set[str]],
        waiting: Callable[[], dict[str, int]],
        on_rejected: Callable[[frames.Rejected], None],
        on_given: Callable[[], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`open_adapter` gives a descriptor by digest; `in_use` are digests that must stay, `waiting` the places
        of requests that want one and are still to come.

        `on_rejected` hears of jobs whose adapter cannot be had, `on_given` of each adapter before its jobs are sent.
        """
        self._open_adapter = open_adapter
        self._budget_bytes = budget_bytes
        self._in_use = in_use
        self._waiting = waiting
        self._on_rejected = on_rejected
        self._on_given = on_given
        self._now_ms = now_ms
        self._given: dict[str, int] = {}  # bytes
        self._uses: dict[str, float] = {}  # also of adapters that have gone; they fade as `agent.eviction` says
        self._last_use_ms: dict[str, int] = {}
        self._held: dict[str, list[frames.ToEngine]] = {}  # by the adapter that they wait for, in order
        self._jobs: dict[int, str] = {}  # that are held
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def resident(self) -> dict[str, int]:
        """Bytes of the adapters that the engine has, by digest."""
        return dict(self._given)

    def has(self, sha256: str) -> bool:
        """Whether the engine has an adapter."""
        return sha256 in self._given

    def clear(self) -> None:
        """The engine is another one, which has none; what was held is sent again by whoever wants it."""
        self._given.clear()
        self._held.clear()
        self._jobs.clear()

    def send(self, engine: Engine, frame: frames.ToEngine) -> None:
        """Sends a frame; one about a job whose adapter is still to come follows that."""
        match frame:
            case frames.Generate(job=job, adapter=str() as sha256):
                self._count_use(sha256)
                if sha256 not in self._given:
                    if sha256 not in self._held:
                        self._held[sha256] = []
                        self._bring(engine, sha256)
                    self._held[sha256].append(frame)
                    self._jobs[job] = sha256
                    return
            case frames.Cancel(job=job) if job in self._jobs:
                self._held[self._jobs[job]].append(frame)
                return
        engine.send(frame)

    def _count_use(self, sha256: str) -> None:
        self._uses[sha256] = self._uses.get(sha256, 0.0) + 1
        self._last_use_ms[sha256] = self._now_ms()
        if sum(self._uses.values()) >= FULL_USES:
            self._uses = {other: uses / 2 for other, uses in self._uses.items()}

    def _bring(self, engine: Engine, sha256: str) -> None:
        task = asyncio.create_task(self._give(engine, sha256, self._held[sha256]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, engine: Engine, sha256: str, held: list[frames.ToEngine]) -> None:
        problem, fd = "", -1
        try:
            fd = await self._open_adapter(sha256)
            if self._held.get(sha256) is held:  # the engine is still the same
                num_bytes = os.fstat(fd).st_size
                self._make_room(engine, num_bytes)
                engine.send_adapter(sha256, fd)
                self._given[sha256] = num_bytes
        except (AgentError, OSError) as error:
            problem = str(error)
            log.error("cannot give an adapter to the engine", why=problem)
        finally:
            if fd >= 0:
                os.close(fd)
        if self._held.get(sha256) is not held:
            return
        del self._held[sha256]
        self._jobs = {job: other for job, other in self._jobs.items() if other != sha256}
        if not problem:
            self._on_given()
        for frame in held:
            if problem and isinstance(frame, frames.Generate):
                self._on_rejected(
                    frames.Rejected(job=frame.job, status=Status.NOT_FOUND, code="adapter", message=problem)
                )
            elif not problem:
                engine.send(frame)

    def _make_room(self, engine: Engine, num_bytes: int) -> None:
        """The budget gives way only to what running jobs need."""
        in_use, waiting = self._in_use(), self._waiting()
        candidates = [
            Candidate(
                sha256, given, self._uses[sha256], self._last_use_ms[sha256],
                held=sha256 in in_use, queue_place=waiting.get(sha256),
            )
            for sha256, given in self._given.items()
        ]  # fmt: skip
        idle = sorted((c for c in candidates if not c.held), key=lambda c: c.last_use_ms)
        going = [candidate.key for candidate in idle[: max(0, len(self._given) + 1 - MAX_GIVEN)]]
        over = sum(self._given.values()) + num_bytes - self._budget_bytes
        if over > 0:
            try:
                going = choose(candidates, over)
            except NotEnoughError:
                going = [candidate.key for candidate in idle]
        for sha256 in going:
            del self._given[sha256]
            engine.send(frames.Forget(sha256))
