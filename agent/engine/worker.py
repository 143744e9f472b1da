"""The engine's loop: take jobs, make a step in each lane, choose tokens, send them."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from agent.engine import frames
from agent.engine.adapters import Adapter, Adapters, PlainAdapters
from agent.engine.canary import canary
from agent.engine.grammar import SchemaError, fits
from agent.engine.inbox import Inbox
from agent.engine.lane import Lane
from agent.engine.llama import Abort, Context, Model
from agent.engine.prefix import PrefixStore
from agent.engine.routing import Routing
from agent.engine.row import NoChoice
from agent.engine.scoring import Scorer
from agent.engine.sequence import Sequence
from agent.engine.slot_lane import NoSlots, SlotLane, make_slot_lane
from agent.engine.switch import TurnSwitch
from agent.engine.template import ChatTemplate, Prompt, PromptError
from agent.engine.threads import Threads
from agent.errors import ModelError
from contract.status import Status

NO_CHOICE = "cannot answer: what the model computed with this adapter are no numbers; the adapter is damaged"


class Rejection(Exception):
    """A job that cannot be run; becomes a `Rejected` frame."""

    def __init__(self, status: Status, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class Worker:
    """Runs the jobs of one loaded model."""

    def __init__(
        self,
        load: frames.Load,
        model: Model,
        make_context: Callable[[Model, int], Context],
        abort: Abort,
        adapters: Adapters,
        inbox: Inbox,
        connection: socket.socket,
        send_lock: threading.Lock,
    ) -> None:
        self._load = load
        self._model = model
        self._make_context = make_context
        self._abort = abort
        self._adapters = adapters
        self._inbox = inbox
        self._connection = connection
        self._send_lock = send_lock
        self._template = ChatTemplate(model, load.chat_template)
        self._store = PrefixStore(load.prefix_cache_bytes)
        self._plain = Lane(
            partial(make_context, model), load.parallel, TurnSwitch(adapters, PlainAdapters(model)), self._store
        )
        self.speed = canary(self._plain.context)
        self._slots: SlotLane | None = None
        self._routing = Routing()
        self._scorer: Scorer | None = None
        self._threads = Threads(load.threads if load.flags["many_threads"] else 1)
        self._out: list[bytes] = []

    def run(self) -> None:
        """Serves until the process ends."""
        while True:
            if is_idle := not any(lane.all_sequences for lane in self._lanes):
                self._threads.rest(time.monotonic())
            for job, arrived in self._inbox.take(block=is_idle):
                self._inbox.step_started = time.monotonic()
                if isinstance(job, frames.MakeSlots):
                    threading.Thread(target=self._make_slots, args=(job.num_slots,), name="slots", daemon=True).start()
                elif isinstance(job, frames.Embed):
                    self._reject(job.job, Rejection(Status.INVALID, "task", "cannot embed: this model generates text"))
                elif isinstance(job, frames.Score | frames.Judge):
                    self._examine(job)
                    self._flush()
                else:
                    self._begin(job, arrived)
            self._inbox.step_started = time.monotonic()
            if (threads := self._threads.choose(time.monotonic())) is not None:
                for lane in self._lanes:
                    lane.streams.set_threads(threads)
            self._abort.clear()
            for lane in self._lanes:
                self._end_stopped(lane)
            self._choose_lanes()
            # Who decodes waits for the steps of all lanes: together they compute no more of prompts than one would.
            max_tokens = frames.BATCH_TOKENS // max(1, sum(lane.has_prompts for lane in self._lanes))
            for lane in self._lanes:
                self._step(lane, max_tokens)
                self._flush()
            self._inbox.step_started = None

    @property
    def context_tokens(self) -> int:
        """How many tokens a prompt and its answer may have."""
        return int(self._plain.context.context_tokens)

    @property
    def _lanes(self) -> list[Lane]:
        return [self._plain, self._slots.lane] if self._slots else [self._plain]

    def _begin(self, job: frames.Generate, arrived: float) -> None:
        try:
            sequence = self._admit(job, arrived)
        except Rejection as no:
            self._reject(job.job, no)
            return
        self._plain.add(sequence)
        self._inbox.watch(sequence)
        if sequence.finish_reason:  # the tokens to resume from were already the whole answer
            self._end(sequence)

    def _examine(self, job: frames.Score | frames.Judge) -> None:
        if isinstance(job, frames.Judge):
            self._send(frames.Judged(job.job, [fits(schema, job.text) for schema in job.schemas]))
            return
        if self._scorer is None:
            self._scorer = Scorer(self._model, self._template, self._make_context, self._adapters)
        try:
            self._send(self._scorer.score(job, self._inbox.note_step))
        except (ModelError, PromptError) as error:
            self._reject(job.job, Rejection(Status.INVALID, "score", f"cannot score a text: {error}"))

    def _admit(self, job: frames.Generate, arrived: float) -> Sequence:
        unknown = next((t for t in job.sampling.logit_bias if t >= self._model.num_vocab), None)
        if unknown is not None:
            raise Rejection(
                Status.INVALID,
                "logit_bias",
                f"cannot bias token {unknown}: this model's tokens are 0 to {self._model.num_vocab - 1}",
            )
        adapter = self._adapter(job.adapter)
        prompt = self._prompt(job.turns)
        activation = job.activation or (adapter.activation if adapter else "prompt")
        try:
            return Sequence(
                self._model,
                job,
                prompt,
                self.context_tokens,
                arrived,
                prompt.user if activation == "user" else 0,
            )
        except SchemaError as error:
            raise Rejection(
                Status.INVALID,
                "response_format.json_schema.schema",
                f"cannot accept response_format.json_schema.schema: {error}",
            ) from None

    def _adapter(self, sha256: str | None) -> Adapter | None:
        if sha256 is None:
            return None
        try:
            return self._adapters.find(sha256)
        except ModelError as error:
            raise Rejection(Status.INVALID, "adapter", str(error)) from None

    def _prompt(self, turns: list[tuple[str, str]]) -> Prompt:
        try:
            prompt = self._template.prompt(turns)
        except PromptError as error:
            raise Rejection(
                Status.INVALID,
                "messages",
                f"cannot use these messages: the model's chat template refuses them: {error}",
            ) from None
        room, length = self.context_tokens, len(prompt.tokens)
        if length >= room:
            raise Rejection(
                Status.TOO_LARGE,
                "messages",
                f"cannot take a prompt of {length} tokens: with the answer at most {room} fit this node's context",
            )
        return prompt

    def _choose_lanes(self) -> None:
        """Moves sequences to the lane where they now run best."""
        slots = self._slots
        if slots is None:
            return
        in_slots = self._routing.note_step([s.adapter for lane in self._lanes for s in lane.all_sequences])
        old, new = (self._plain, slots.lane) if in_slots else (slots.lane, self._plain)
        for sequence in old.all_sequences:
            if not in_slots or (self._fits_slots(sequence, slots) and not self._plain.prepares(sequence)):
                new.add(old.give_up(sequence))

    def _fits_slots(self, sequence: Sequence, slots: SlotLane) -> bool:
        try:
            return slots.fits(sequence, self._adapters.find(sequence.adapter) if sequence.adapter else None)
        except ModelError:  # the daemon has forgotten the adapter: the sequence ends where it is
            return False

    def _make_slots(self, num_slots: int) -> None:
        """In a thread of its own: the lane is used from the moment it is there."""
        try:
            slots = make_slot_lane(
                self._load, num_slots, self._model, self._template, self._adapters, self._store,
                self._make_context,
            )  # fmt: skip
        except NoSlots as error:
            self._say(frames.Slots(num_slots=0, problem=str(error)))
            return
        slots.lane.streams.set_threads(self._threads.now)
        self._plain.banned = slots.lane.banned  # so that an answer does not depend on its lane
        slots.lane.peers, self._plain.peers = [self._plain], [slots.lane]
        self._slots = slots
        self._say(frames.Slots(num_slots=len(slots.activation_tokens)))

    def _end_stopped(self, lane: Lane) -> None:
        for sequence in [s for s in lane.all_sequences if s.stop_reason]:
            text = sequence.end(sequence.stop_reason or "error")
            self._send(frames.Tokens(sequence.job, [], text))
            self._end(sequence)

    def _step(self, lane: Lane, max_tokens: int) -> None:
        # Sequences only pass through the lane that is not theirs.
        lane.arrange(may_grow=lane is self._lanes[self._routing.in_slots])
        chosen = lane.step(max_tokens)
        for sequence, why in lane.refusals():
            self._inbox.forget(sequence.job)
            sequence.close()
            self._reject(sequence.job, Rejection(Status.INVALID, "adapter", why))
        for sequence, logits in chosen:
            try:
                token, text = sequence.choose(logits)
            except NoChoice:
                if sequence.adapter is None:  # the model itself is damaged: nothing that it says is right
                    raise
                sequence.position = 0  # nobody may take over what it has computed
                self._drop(lane, sequence)
                self._reject(sequence.job, Rejection(Status.ENGINE_FAILED, "engine_failed", NO_CHOICE))
                continue
            self._send(frames.Tokens(sequence.job, [token], text))
            if sequence.finish_reason:
                self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._send(
            frames.Done(
                job=sequence.job,
                finish_reason=sequence.finish_reason or "error",
                text=sequence.text,
                prompt_tokens=sequence.num_prompt_tokens,
                cached_tokens=min(sequence.num_cached_tokens, sequence.num_prompt_tokens),
                completion_tokens=sequence.num_generated,
                confidence=sequence.confidence,
                engine_first_token_ms=sequence.first_token_ms,
                fits=sequence.fits,
            )
        )
        self._inbox.forget(sequence.job)
        self._drop(next(lane for lane in self._lanes if sequence in lane.all_sequences), sequence)

    def _drop(self, lane: Lane, sequence: Sequence) -> None:
        lane.remove(sequence)
        sequence.close()

    def _reject(self, job: int, no: Rejection) -> None:
        self._inbox.forget(job)
        self._send(frames.Rejected(job=job, status=no.status, code=no.code, message=no.message))

    def _send(self, frame: frames.FromEngine) -> None:
        self._out.append(frames.encode(frame))

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._write(out)

    def _say(self, frame: frames.FromEngine) -> None:
        """Sends a frame at once, from any thread."""
        self._write([frames.encode(frame)])

    def _write(self, data: Iterable[bytes]) -> None:
        raw = b"".join(data)
        if raw:
            with self._send_lock, contextlib.suppress(BrokenPipeError):  # the inbox sees the same end and exits
                self._connection.sendall(raw)
