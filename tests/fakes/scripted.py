"""An engine that does what a test says, in frames: the other side of `Answering`."""

from typing import Any

from agent.engine import frames
from agent.job import Job
from contract.answers import Delta, Final
from contract.requests import Request


class ScriptedEngine:
    """Collects what it is told to run; the test says what comes back."""

    def __init__(self) -> None:
        self.told: list[frames.ToEngine] = []

    def __call__(self, frame: frames.ToEngine) -> None:
        """Takes a frame for the engine."""
        self.told.append(frame)

    @property
    def runs(self) -> list[frames.Generate]:
        """All generations it was told to run, in order."""
        return [frame for frame in self.told if isinstance(frame, frames.Generate)]

    @property
    def cancels(self) -> list[frames.Cancel]:
        """All cancels."""
        return [frame for frame in self.told if isinstance(frame, frames.Cancel)]


def done(job: int, reason: str = "stop", text: str = "hello", *, fits: bool | None = None) -> frames.Done:
    """The end of a generation."""
    return frames.Done(
        job=job, finish_reason=reason, text=text, prompt_tokens=3, cached_tokens=1, completion_tokens=2, confidence=0.5,
        engine_first_token_ms=1.0, fits=fits,
    )  # fmt: skip


class Asker:
    """Makes jobs and keeps what they were answered."""

    def __init__(self) -> None:
        self.deltas: dict[str, list[Delta]] = {}
        self.finals: dict[str, list[Final]] = {}

    def job(self, name: str, now: float, *, client: str = "c", ttl_s: float = 60, **fields: Any) -> Job:
        """A streamed request called `name`."""
        self.deltas[name], self.finals[name] = [], []

        async def keep(final: Final) -> None:
            self.finals[name].append(final)

        return Job(
            client=client,
            id=name,
            request=Request(prompt=name, stream=True, **fields),
            arrived=now,
            deadline=now + ttl_s,
            on_delta=self.deltas[name].append,
            on_final=keep,
        )

    def statuses(self) -> dict[str, list[int]]:
        """The statuses of all finals, by request."""
        return {name: [int(final.status) for final in finals] for name, finals in self.finals.items()}
