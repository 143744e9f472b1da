"""An engine that answers nobody: a candidate, or the model that serves, runs in it to be looked at.

It is a process like the others, with their isolation and their ladder of load flags, and ends with `async with`.
"""

import asyncio
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from agent.engine import frames, ladder
from agent.engine.death import Death
from agent.engine.supervisor import Plan, State, Supervisor
from agent.errors import EngineError

F = TypeVar("F", bound=frames.OfJob)

GREEDY = frames.Sampling(temperature=0, top_p=1, top_k=0)
DEADLINE_MS = 600_000.0


class NotPossibleError(EngineError):
    """The engine runs, and cannot do what it was asked: nor will it the next time."""


class TrialEngine:
    """One engine on trial. Its calls raise EngineError when it cannot load or dies, or NotPossibleError."""

    def __init__(self, plan: Plan, rung: str | None) -> None:
        """`rung` is that of an engine that runs on this machine: what crashes here is not tried again."""
        self._parallel = asyncio.Semaphore(plan.parallel)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[frames.OfJob]] = {}
        self._file = plan.file
        self._supervisor = Supervisor(
            plan,
            first_rung=ladder.start_of(rung),
            on_frame=self._take,
            on_state=self._note,
            on_lost=self._lost,
            on_rung=lambda _: None,
        )

    async def __aenter__(self) -> "TrialEngine":
        self._supervisor.start()
        try:
            await self._supervisor.wait_ready()
        except BaseException:
            await self._supervisor.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._supervisor.stop()

    @property
    def memory_bytes(self) -> int | None:
        """The most that its process has had in memory so far, mapped files included; None: not measured."""
        try:
            status = Path(f"/proc/{self._supervisor.pid}/status").read_text("ascii", "replace")
        except OSError:
            return None
        peaks = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        return next(peaks, None)

    def give(self, sha256: str, fd: int) -> None:
        """Gives it an adapter's file.

        Raises:
            EngineError: it does not take it.
        """
        try:
            self._supervisor.send_adapter(sha256, fd)
        except OSError as error:
            raise EngineError(f"cannot give an adapter to the engine: {error}") from error

    async def generate(
        self,
        turns: list[tuple[str, str]],
        *,
        max_tokens: int,
        sampling: frames.Sampling = GREEDY,
        stops: list[str] | None = None,
        output_schema: dict[str, Any] | None = None,
        adapter: str | None = None,
    ) -> frames.Done:
        """An answer."""
        number = next(self._numbers)
        frame = frames.Generate(
            job=number, turns=turns, sampling=sampling, max_tokens=max_tokens, stops=stops or [],
            output_schema=output_schema, deadline_ms=DEADLINE_MS, adapter=adapter,
        )  # fmt: skip
        async with self._parallel:
            return await self._ask(frame, frames.Done)

    async def embed(self, texts: list[str]) -> list[bytes]:
        """Vectors of length 1, of 32-bit floats."""
        frame = frames.Embed(job=next(self._numbers), texts=texts, truncate=True, deadline_ms=DEADLINE_MS)
        return (await self._ask(frame, frames.Embedded)).vectors

    async def score(
        self, *, text: str = "", turns: list[tuple[str, str]] | None = None, adapter: str | None, num_decode: int = 0
    ) -> frames.Scored:
        """How probable a text or a conversation is."""
        frame = frames.Score(
            job=next(self._numbers), text=text, turns=turns or [], adapter=adapter, num_decode=num_decode
        )
        return await self._ask(frame, frames.Scored)

    async def fit(self, text: str, schemas: list[dict[str, Any]]) -> list[bool]:
        """Whether a text fits JSON schemas."""
        frame = frames.Judge(job=next(self._numbers), text=text, schemas=schemas)
        return (await self._ask(frame, frames.Judged)).fits

    async def _ask(self, frame: frames.Generate | frames.Embed | frames.Score | frames.Judge, kind: type[F]) -> F:
        waiting = self._waiting[frame.job] = asyncio.get_running_loop().create_future()
        try:
            self._supervisor.send(frame)
            answer = await waiting
        finally:
            del self._waiting[frame.job]
        if isinstance(answer, frames.Rejected):
            raise NotPossibleError(answer.message)
        if not isinstance(answer, kind):
            raise EngineError(f"cannot use what the engine answers: {type(answer).__name__}")
        return answer

    def _take(self, frame: frames.OfJob) -> None:
        waiting = self._waiting.get(frame.job)
        if waiting and not waiting.done() and not isinstance(frame, frames.Tokens):
            waiting.set_result(frame)

    def _note(self, state: State) -> None:
        if state is State.BROKEN:
            self._fail(self._supervisor.problem)

    def _lost(self, death: Death) -> None:
        self._fail(f"cannot run {self._file}: its engine died while it was tried ({death.value})")

    def _fail(self, why: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(EngineError(why))
