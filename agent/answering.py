"""From a taken request to its final answer: waits for the engine, joins deltas, minds deadlines, survives crashes.

Every job that is submitted ends exactly once, whatever the engine does. A job that ran when the engine died runs once
more, alone, so that of several suspects only the guilty one dies twice; it goes on behind the tokens it had sent.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import msgspec
import structlog
from msgspec import UNSET

from agent import admission, finals
from agent.config import Limits, Sampling
from agent.engine import frames
from agent.engine.death import Death
from agent.engine.supervisor import State
from agent.job import Job
from agent.logs import describe
from agent.models import Manner
from agent.quarantine import Quarantine
from agent.queue import Queue
from agent.store.adapter_entries import Entry
from agent.tally import Tally
from contract import limits as wire
from contract.answers import Accepted, Delta, Failure, Final, Timings, Usage
from contract.errors import Refused
from contract.status import Status

T = TypeVar("T")
log = structlog.get_logger()

MAX_RUNS = 2
# How long after its deadline or cancel a running job may take to stop before its answer goes out without the engine.
STOP_GRACE_S = 1.0


class Answering:
    """The jobs of one base model."""

    def __init__(
        self,
        *,
        node: str,
        model: str,
        parallel: int,
        limits: Callable[[], Limits],
        sampling: Sampling,
        manner: Manner,
        find_adapter: Callable[[str], Entry],
        quarantine: Quarantine,
        send: Callable[[frames.ToEngine], None],
        has_adapter: Callable[[str], bool] = lambda _: False,
        tally: Tally | None = None,
    ) -> None:
        """`limits` may change while it runs; `manner` goes before `sampling`. `find_adapter` raises Refused for one
        that is not here; `send` takes care that the engine has it, and `has_adapter` knows whether it has an adapter
        already. `tally` counts.
        """
        self._node = node
        self.model = model
        self._parallel = parallel
        self._limits = limits
        self._sampling = sampling
        self.manner = manner
        self._find_adapter = find_adapter
        self._quarantine = quarantine
        self._send = send
        self._has_adapter = has_adapter
        self._tally = tally or Tally()
        self._queue = Queue(default_max_tokens=sampling.max_tokens)
        self._running: dict[int, Job] = {}
        self._numbers = count(1)
        self._engine = State.STOPPED
        self._ends: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()  # nothing runs and all finals are stored
        self._service_s = 2.0  # moving mean of how long a run takes
        self.draining = False
        self.is_held = False  # what waits goes on waiting, what runs goes on
        self.num_ended: dict[int, int] = {}

    @property
    def num_waiting(self) -> int:
        """Jobs that have not reached the engine."""
        return len(self._queue)

    @property
    def adapters_in_use(self) -> set[str]:
        """Digests of the adapters of jobs in the engine, and of those that were there and run again."""
        return {job.adapter.sha256 for job in [*self._running.values(), *self._queue.jobs()] if job.adapter}

    @property
    def adapters_waiting(self) -> dict[str, int]:
        """Digests of the adapters that waiting jobs want, and how many jobs come before the first of them, about."""
        places: dict[str, int] = {}
        jobs = sorted(self._queue.jobs(), key=lambda job: (-job.request.priority, job.arrived))
        for place, job in enumerate(jobs):
            if isinstance(job.request.adapter, str):
                with contextlib.suppress(Refused):  # gone since it was asked for
                    places.setdefault((job.adapter or self._find_adapter(job.request.adapter)).sha256, place)
        return places

    @property
    def num_running(self) -> int:
        """Jobs in the engine."""
        return len(self._running)

    @property
    def wait_s(self) -> float:
        """In how many seconds a job that comes now would begin, as the last ones took."""
        num_before = len(self._queue) + len(self._running)
        return (
            0.0 if num_before < self._parallel else self._service_s * (num_before + 1 - self._parallel) / self._parallel
        )

    def check_admission(self, client: str) -> None:
        """Whether one more job of `client` may be submitted now.

        Raises:
            Refused: 429 or 503, with when to try again.
        """
        if self.draining:
            raise admission.stopping()
        if self._engine is State.BROKEN:
            raise admission.no_engine()
        wait_s = self._service_s * (len(self._queue) + 1) / self._parallel
        admission.check_room(client, len(self._queue), self._queue.of_client(client), self._limits(), wait_s)

    def submit(self, job: Job) -> None:
        """Takes a job; it ends through its `on_final`."""
        now = time.monotonic()
        self._queue.push(job, now)
        self._tally.waiting(self.model, len(self._queue))
        left_s = max(0.0, job.deadline - now)
        job.timer = asyncio.get_running_loop().call_later(left_s, self._expire, job)
        self._pump()

    def accepted(self, job: Job) -> Accepted:
        """What a client is told about a job that is waiting or running."""
        ahead = self._queue.num_ahead(job, time.monotonic(), self._service_s)
        return Accepted(id=job.id, node=self._node, queue=ahead, model=self.model)

    def hold(self, *, held: bool) -> None:
        """From now on no job goes to the engine, or they do again."""
        self.is_held = held
        self._pump()

    def cancel(self, job: Job) -> None:
        """Stops a job; it ends with 499 unless it ends otherwise first."""
        self._stop(job, Status.CANCELLED, "cannot answer: the request was cancelled")

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing new and gives running jobs `timeout_s` to end. Waiting ones are left to the journal."""
        self.draining = True
        self._idle.clear()
        self._note_idle()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    def on_engine(self, state: State) -> None:
        """The engine's state changed."""
        self._engine = state
        if state is State.BROKEN:
            for job in self._queue.jobs():
                self._fail(job, Status.UNAVAILABLE, "engine", "cannot answer: no engine runs on this node")
        self._pump()

    def on_lost(self, death: Death) -> None:
        """The engine died: what ran runs again, alone, or has had its two chances."""
        self._engine = State.STARTING  # also when the state is reported later: there is nothing to send to
        lost, self._running = self._running, {}
        for job in lost.values():
            self._quarantine.strike(job.request, death, alone=len(lost) == 1)
            if job.ended:
                continue
            if job.stop is not None:
                self._fail(job, *job.stop)
            elif job.num_runs >= MAX_RUNS:
                self._fail(
                    job, Status.ENGINE_FAILED, "engine_failed", f"cannot answer: the engine died {MAX_RUNS} times on it"
                )
            else:
                job.suspect = True
                self._queue.push(job, time.monotonic())
        self._note_idle()

    def on_frame(self, frame: frames.OfJob) -> None:
        """The engine says something about a job."""
        job = self._running.get(frame.job)
        if job is None:
            return
        match frame:
            case frames.Tokens(tokens=tokens, text=text):
                if not job.ended:
                    self._on_tokens(job, tokens, text)
            case frames.Done():
                self._free(job)
                if not job.ended:
                    self._on_done(job, frame)
            case frames.Embedded():
                self._free(job)
                if not job.ended:
                    self._end(job, finals.embedded(job, frame))
            case frames.Rejected():
                self._free(job)
                if not job.ended:
                    self._fail(job, Status(frame.status), frame.code, frame.message)

    def _pump(self) -> None:
        may_run = self._engine is State.READY and not self.draining and not self.is_held
        while may_run and len(self._running) < 2 * self._parallel:
            now = time.monotonic()
            job = self._queue.peek(now, self._service_s, above=self._bar())
            if job is None or any(other.suspect for other in self._running.values()):
                return
            if job.suspect and self._running:
                return
            try:
                self._quarantine.check(job.request)
            except Refused as no:
                self._queue.remove(job)
                self._fail(job, no.status, no.code, no.message)
                continue
            self._queue.take(job, now)
            self._run(job)

    def _bar(self) -> int:
        """What runs next must have a priority above this.

        The engine lets the highest priorities go on, oldest first, and the others pause. So one more is sent when it
        is above one that does not pause yet, and it takes that one's place.
        """
        going_on = sorted((job.request.priority for job in self._running.values()), reverse=True)[: self._parallel]
        return going_on[-1] if len(going_on) == self._parallel else -1

    def _run(self, job: Job) -> None:
        now = time.monotonic()
        job.number = next(self._numbers)
        job.num_runs += 1
        job.started = job.started or now
        self._running[job.number] = job
        want, own, default = job.request, self.manner.sampling, self._sampling
        if want.task == "embed":
            self._send(
                frames.Embed(
                    job=job.number,
                    texts=want.texts,
                    truncate=want.truncate,
                    deadline_ms=max(0.0, (job.deadline - now) * 1000),
                    priority=want.priority,
                )
            )
            return
        try:
            if isinstance(want.adapter, str):
                # What runs again goes on with the version that it began with, whatever the name means by now.
                job.adapter = job.adapter or self._find_adapter(want.adapter)
                job.adapter_was_here = self._has_adapter(job.adapter.sha256)
        except Refused as no:
            self._free(job)
            self._fail(job, no.status, no.code, no.message)
            return
        self._send(
            frames.Generate(
                job=job.number,
                turns=want.turns,
                sampling=frames.Sampling(
                    temperature=_first(want.temperature, own.temperature, default.temperature),
                    top_p=_first(want.top_p, own.top_p, default.top_p),
                    top_k=_first(want.top_k, own.top_k, default.top_k),
                    min_p=_first(want.min_p, own.min_p, 0.0),
                    repeat_penalty=_first(want.repeat_penalty, own.repeat_penalty, 1.0),
                    presence_penalty=want.presence_penalty or 0.0,
                    frequency_penalty=want.frequency_penalty or 0.0,
                    seed=want.seed,
                    logit_bias=want.logit_bias or {},
                ),
                max_tokens=want.max_tokens or own.max_tokens or default.max_tokens,
                stops=want.stops or list(own.stop),
                output_schema=want.output_schema,
                deadline_ms=max(0.0, (job.deadline - now) * 1000),
                adapter=job.adapter.sha256 if job.adapter else None,
                activation=want.activation,
                resume=job.tokens,
                priority=want.priority,
            )
        )

    def _free(self, job: Job) -> None:
        del self._running[job.number]
        if job.started is not None:
            self._service_s += 0.1 * (time.monotonic() - job.started - self._service_s)
        asyncio.get_running_loop().call_soon(self._pump)  # after this job's final is on its way

    def _on_tokens(self, job: Job, tokens: list[int], text: str) -> None:
        now = time.monotonic()
        if job.first_token is None and tokens:
            job.first_token = now
        job.tokens += tokens
        job.text += text
        if not job.request.stream:
            return
        if text and not job.held_text:  # a delta's time begins with its first text
            asyncio.get_running_loop().call_later(wire.DELTA_MS / 1000, self._send_held, job, job.num_deltas)
        job.held_text += text
        job.held_tokens += len(tokens)
        # The first text goes at once: it is what people wait for.
        if job.num_deltas == 0 or job.held_tokens >= wire.DELTA_TOKENS:
            self._send_held(job, job.num_deltas)

    def _send_held(self, job: Job, num_deltas: int) -> None:
        if job.ended or not job.held_text or job.num_deltas != num_deltas:
            return
        job.num_deltas += 1
        job.on_delta(Delta(id=job.id, seq=job.num_deltas, text=job.held_text, n=job.held_tokens))
        job.held_text, job.held_tokens = "", 0

    def _on_done(self, job: Job, done: frames.Done) -> None:
        status, failure = finals.outcome(done)
        job.engine_first_token_ms = done.engine_first_token_ms
        self._quarantine.clear(job.request)
        self._send_held(job, job.num_deltas)
        final = Final(
            id=job.id,
            status=status,
            text=done.text,
            finish_reason=done.finish_reason,  # type: ignore[arg-type]  # the engine knows no others
            error=failure or UNSET,
            usage=Usage(done.prompt_tokens, done.cached_tokens, done.completion_tokens),
            confidence=UNSET if done.confidence is None else round(done.confidence, 4),
        )
        self._end(job, final)

    def _fail(self, job: Job, status: Status, code: str, message: str) -> None:
        self._send_held(job, job.num_deltas)
        self._end(job, Final(id=job.id, status=status, text=job.text or UNSET, error=Failure(code, message)))

    def _expire(self, job: Job) -> None:
        self._stop(job, Status.DEADLINE, "cannot answer in time: the deadline has passed")

    def _stop(self, job: Job, status: Status, message: str) -> None:
        if job.ended:
            return
        job.stop = job.stop or (status, status.name.lower(), message)
        if self._queue.remove(job):
            self._fail(job, *job.stop)
        elif job.number in self._running:
            self._send(frames.Cancel(job.number, "deadline" if status is Status.DEADLINE else "cancelled"))
            asyncio.get_running_loop().call_later(STOP_GRACE_S, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        if job.stop is not None and not job.ended:  # the engine is stuck; its heartbeat will see to that
            self._fail(job, *job.stop)

    def _end(self, job: Job, final: Final) -> None:
        job.ended = True
        if job.timer is not None:
            job.timer.cancel()
        self._queue.remove(job)
        now = time.monotonic()
        final = msgspec.structs.replace(
            final,
            node=self._node,
            model=self.model,
            adapter=job.adapter.label if job.adapter else None,
            served_by="local",
            energy=None,
            last_seq=job.num_deltas,
            timings=Timings(
                queued_ms=round(((job.started or now) - job.arrived) * 1000, 3),
                first_token_ms=None if job.first_token is None else round((job.first_token - job.arrived) * 1000, 3),
                total_ms=round((now - job.arrived) * 1000, 3),
            ),
        )
        label = job.adapter.label if job.adapter else None
        self._tally.ended(self.model, label, final, adapter_was_here=job.adapter_was_here)
        self.num_ended[final.status] = self.num_ended.get(final.status, 0) + 1
        log.info(
            "answered",
            client=job.client,
            id=job.id,
            status=int(final.status),
            prompt_tokens=final.usage.prompt_tokens if final.usage else None,
            completion_tokens=final.usage.completion_tokens if final.usage else None,
            total_ms=round((now - job.arrived) * 1000),
            engine_first_token_ms=job.engine_first_token_ms,
            runs=job.num_runs,
        )
        task = asyncio.create_task(job.on_final(final))
        self._ends.add(task)
        task.add_done_callback(self._end_stored)

    def _end_stored(self, task: asyncio.Task[None]) -> None:
        self._ends.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("cannot deliver an answer", **describe(error))
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._running and not self._ends:
            self._idle.set()


def _first(*values: T | None) -> T:
    """The first that is said."""
    return next(value for value in values if value is not None)
