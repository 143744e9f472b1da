"""The engine's loop for a model that turns texts into vectors: take jobs, encode texts of several together, send."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

from agent.engine import frames
from agent.engine.canary import Speed
from agent.engine.encoder import MAX_TEXTS, Encoder
from agent.engine.inbox import Inbox, Work
from agent.engine.llama import Abort, Model
from agent.engine.texts import pick_texts
from agent.engine.threads import Threads
from contract.status import Status

# Of one step; a single text may be longer. 64 to 512 are equally fast (docs/adr/0017), and shorter steps let a cancel
# and a small job through sooner.
STEP_TOKENS = 128


@dataclass(eq=False, kw_only=True)
class EmbedJob:
    """A job that runs. `vectors` are of its first texts; `deadline` is in monotonic seconds."""

    job: int
    priority: int
    deadline: float
    texts: list[list[int]]
    vectors: list[bytes] = field(default_factory=list)
    stop_reason: str | None = None

    @property
    def num_tokens(self) -> int:
        """Of all its texts."""
        return sum(map(len, self.texts))


class Embedder:
    """Runs the jobs of one loaded encoder."""

    def __init__(
        self,
        load: frames.Load,
        model: Model,
        abort: Abort,
        inbox: Inbox,
        connection: socket.socket,
        send_lock: threading.Lock,
    ) -> None:
        """Raises: LoadError: llama.cpp cannot make an encoder of this model."""
        threads = load.threads if load.flags["many_threads"] else 1
        text_tokens = min(load.context_tokens, model.trained_context_tokens)
        self._encoder = Encoder(model, abort, text_tokens=text_tokens, threads=threads)
        self.speed = Speed(self._encoder.canary(), 0.0)
        self._threads = Threads(threads)
        self._abort = abort
        self._inbox = inbox
        self._connection = connection
        self._send_lock = send_lock
        self._jobs: list[EmbedJob] = []  # highest priority first, then oldest
        self._out: list[bytes] = []

    @property
    def context_tokens(self) -> int:
        """How many tokens a text may have."""
        return self._encoder.text_tokens

    def run(self) -> None:
        """Serves until the process ends."""
        while True:
            if not self._jobs:
                self._threads.rest(time.monotonic())
            for work, arrived in self._inbox.take(block=not self._jobs):
                self._inbox.step_started = time.monotonic()
                self._begin(work, arrived)
            self._inbox.step_started = time.monotonic()
            self._step()
            self._inbox.step_started = None
            self._flush()

    def _begin(self, work: Work, arrived: float) -> None:
        if isinstance(work, frames.MakeSlots):
            return
        if not isinstance(work, frames.Embed):
            self._reject(work.job, Status.INVALID, "task", "cannot generate: this model makes embeddings")
            return
        texts = [self._encoder.tokenize(text, truncate=work.truncate) for text in work.texts]
        most = self._encoder.text_tokens
        for number, tokens in enumerate(texts):
            if not 0 < len(tokens) <= most:
                what = f"input[{number}]" if len(texts) > 1 else "input"
                status = Status.TOO_LARGE if tokens else Status.INVALID
                message = (
                    f"cannot embed {what} of {len(tokens)} tokens: 1 to {most} are accepted; send it in parts, or set"
                    " truncate to true"
                )
                self._reject(work.job, status, "input", message)
                return
        job = EmbedJob(job=work.job, priority=work.priority, deadline=arrived + work.deadline_ms / 1000, texts=texts)
        self._jobs.append(job)
        self._jobs.sort(key=lambda other: -other.priority)
        self._inbox.watch(job)

    def _step(self) -> None:
        self._abort.clear()
        for job in [job for job in self._jobs if job.stop_reason]:
            self._send(
                frames.Done(
                    job=job.job, finish_reason=job.stop_reason or "error", text="", prompt_tokens=job.num_tokens,
                    cached_tokens=0, completion_tokens=0, confidence=None, engine_first_token_ms=None, fits=None,
                )
            )  # fmt: skip
            self._end(job)
        waiting = [[len(tokens) for tokens in job.texts[len(job.vectors) :]] for job in self._jobs]
        picked = pick_texts(waiting, max_tokens=min(STEP_TOKENS, self._encoder.text_tokens), max_texts=MAX_TEXTS)
        if not picked:
            return
        if (threads := self._threads.choose(time.monotonic())) is not None:
            self._encoder.set_threads(threads)
        jobs = [self._jobs[pick.job] for pick in picked]
        done = [len(job.vectors) for job in jobs]
        vectors = self._encoder.encode(
            [job.texts[already + pick.text] for job, already, pick in zip(jobs, done, picked, strict=True)]
        )
        if vectors is None:  # aborted: the next step tells why
            return
        for job, vector in zip(jobs, vectors, strict=True):
            job.vectors.append(vector.tobytes())
        for job in [job for job in self._jobs if len(job.vectors) == len(job.texts)]:
            self._send(frames.Embedded(job=job.job, vectors=job.vectors, prompt_tokens=job.num_tokens))
            self._end(job)

    def _end(self, job: EmbedJob) -> None:
        self._jobs.remove(job)
        self._inbox.forget(job.job)

    def _reject(self, job: int, status: Status, code: str, message: str) -> None:
        self._inbox.forget(job)
        self._send(frames.Rejected(job=job, status=status, code=code, message=message))

    def _send(self, frame: frames.FromEngine) -> None:
        self._out.append(frames.encode(frame))

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if data:
            with self._send_lock, contextlib.suppress(BrokenPipeError):  # the inbox sees the same end and exits
                self._connection.sendall(data)
