"""A real engine process without a daemon, spoken to in frames."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.engine import frames
from agent.engine.ladder import RUNGS


class EngineProcess:
    """An engine that has loaded a model."""

    def __init__(self, model: Path, *, parallel: int = 4, context_tokens: int = 1024) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(120)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent.engine", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "GOMP_SPINCOUNT": "1000"},
            )
        self._decoder = frames.Decoder(frames.FromEngine)
        self._frames = self._receive()
        self._numbers = 0
        self.send(
            frames.Load(
                file=str(model), context_tokens=context_tokens, parallel=parallel, threads=2, flags=RUNGS[0].flags
            )
        )
        self.ready = next(self._frames)

    def send(self, frame: frames.ToEngine) -> None:
        """Sends a frame."""
        self._socket.sendall(frames.encode(frame))

    def next(self) -> frames.FromEngine:
        """The next frame."""
        frame: frames.FromEngine = next(self._frames)
        return frame

    def generate(
        self,
        *turns: tuple[str, str],
        max_tokens: int = 24,
        temperature: float = 0,
        seed: int = 1,
        output_schema: dict[str, Any] | None = None,
    ) -> int:
        """Starts a generation; returns its number."""
        self._numbers += 1
        self.send(
            frames.Generate(
                job=self._numbers,
                turns=list(turns),
                sampling=frames.Sampling(temperature=temperature, top_p=1, top_k=40, seed=seed),
                max_tokens=max_tokens,
                output_schema=output_schema,
                deadline_ms=120_000,
            )
        )
        return self._numbers

    def done(self, count: int = 1) -> dict[int, frames.Done]:
        """The next `count` ends, by number."""
        ends: dict[int, frames.Done] = {}
        while len(ends) < count:
            frame = next(self._frames)
            if isinstance(frame, frames.Done):
                ends[frame.job] = frame
        return ends

    def ask(self, *turns: tuple[str, str], **how: Any) -> frames.Done:
        """One generation from beginning to end."""
        number = self.generate(*turns, **how)
        return self.done()[number]

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
        self.process.wait(30)

    def _receive(self) -> Iterator[Any]:
        while data := self._socket.recv(1 << 16):
            yield from self._decoder.feed(data)
        raise AssertionError("the engine ended")
