"""A real engine process without a daemon, spoken to in frames."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.engine import frames
from agent.engine.isolation import environment
from agent.engine.ladder import RUNGS
from agent.models import digest_of


class EngineProcess:
    """An engine that has loaded a model."""

    def __init__(
        self,
        model: Path,
        *,
        parallel: int = 4,
        context_tokens: int = 1024,
        prefix_cache_bytes: int = 64 << 20,
        adapter_slots: int = 0,
        cache_dir: Path | None = None,
        address_space_bytes: int = 0,
        chat_template: str | None = None,
    ) -> None:
        self._socket, theirs = socket.socketpair()
        self._files, their_files = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(120)
        with theirs, their_files:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent.engine", str(theirs.fileno()), str(their_files.fileno())],
                pass_fds=[theirs.fileno(), their_files.fileno()],
                env=environment(os.environ),
            )
        self._decoder = frames.Decoder(frames.FromEngine)
        self._frames = self._receive()
        self._numbers = 0
        self._ends: dict[int, frames.Done | frames.Rejected] = {}  # that nobody has asked for yet
        self._open: set[int] = set()
        self.tokens: dict[int, list[int]] = {}  # of each generation, as far as frames were read
        self.send(
            frames.Load(
                file=str(model),
                sha256=digest_of(model) if adapter_slots else "",
                context_tokens=context_tokens,
                parallel=parallel,
                threads=2,
                flags=RUNGS[0].flags,
                prefix_cache_bytes=prefix_cache_bytes,
                cache_dir=str(cache_dir or ""),
                address_space_bytes=address_space_bytes,
                chat_template=chat_template,
            )
        )
        try:
            self.ready = next(self._frames)
        except (AssertionError, ConnectionError):
            self.close()
            raise
        if adapter_slots:
            self.send(frames.MakeSlots(adapter_slots))
            self.slots = next(frame for frame in self._frames if isinstance(frame, frames.Slots))

    def send(self, frame: frames.ToEngine) -> None:
        """Sends a frame."""
        self._socket.sendall(frames.encode(frame))

    def next(self) -> frames.FromEngine:
        """The next frame."""
        frame: frames.FromEngine = next(self._frames)
        if isinstance(frame, frames.Done | frames.Rejected):
            self._ends.pop(frame.job)
        return frame

    def read(self, num_frames: int) -> None:
        """Takes in as many frames, or less when nothing is running any more."""
        for _ in range(num_frames):
            if self._open:
                next(self._frames)

    def cancel(self, number: int) -> None:
        """Stops a generation."""
        self.send(frames.Cancel(number, "cancelled"))

    def give(self, adapter: Path, sha256: str | None = None) -> str:
        """Gives it an adapter; returns the digest that jobs name it by. One that is known need not be reckoned."""
        sha256 = sha256 or digest_of(adapter)
        with adapter.open("rb") as file:
            socket.send_fds(self._files, [b"A"], [file.fileno()])
        self.send(frames.Adapter(sha256))
        return sha256

    def generate(
        self,
        *turns: tuple[str, str],
        max_tokens: int = 24,
        temperature: float = 0,
        seed: int = 1,
        output_schema: dict[str, Any] | None = None,
        adapter: str | None = None,
        activation: frames.Activation | None = None,
        priority: int = 4,
        deadline_ms: float = 120_000,
        logit_bias: dict[int, float] | None = None,
    ) -> int:
        """Starts a generation; returns its number."""
        self._numbers += 1
        self._open.add(self._numbers)
        self.send(
            frames.Generate(
                job=self._numbers,
                turns=list(turns),
                sampling=frames.Sampling(
                    temperature=temperature, top_p=1, top_k=40, seed=seed, logit_bias=logit_bias or {}
                ),
                max_tokens=max_tokens,
                output_schema=output_schema,
                deadline_ms=deadline_ms,
                adapter=adapter,
                activation=activation,
                priority=priority,
            )
        )
        return self._numbers

    def embed(self, *texts: str, truncate: bool = False, ttl_ms: float = 120_000) -> int:
        """Starts an embedding job; returns its number."""
        self._numbers += 1
        self.send(frames.Embed(job=self._numbers, texts=list(texts), truncate=truncate, deadline_ms=ttl_ms))
        return self._numbers

    def ended(self, count: int = 1) -> dict[int, frames.Done | frames.Rejected]:
        """How the next `count` generations ended, by number."""
        while len(self._ends) < count:
            next(self._frames)
        return {number: self._ends.pop(number) for number in list(self._ends)[:count]}

    def done(self, count: int = 1) -> dict[int, frames.Done]:
        """The next `count` ends, by number, none of them a rejection."""
        ends = self.ended(count)
        done = {number: end for number, end in ends.items() if isinstance(end, frames.Done)}
        assert len(done) == count, ends
        return done

    def wait_tokens(self, number: int, count: int = 1) -> None:
        """Waits until a generation has said so many tokens."""
        while len(self.tokens.get(number, [])) < count:
            next(self._frames)

    def ask(self, *turns: tuple[str, str], **how: Any) -> frames.Done:
        """One generation from beginning to end."""
        number = self.generate(*turns, **how)
        return self.done()[number]

    def close(self) -> None:
        """Ends it."""
        self._socket.close()
        self._files.close()
        self.process.wait(30)

    def _receive(self) -> Iterator[Any]:
        while data := self._socket.recv(1 << 16):
            for frame in self._decoder.feed(data):
                match frame:
                    case frames.Tokens(job, tokens):
                        self.tokens.setdefault(job, []).extend(tokens)
                    case frames.Done(job=job) | frames.Rejected(job=job):
                        self._ends[job] = frame
                        self._open.discard(job)
                yield frame
        raise AssertionError("the engine ended")
