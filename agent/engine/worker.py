"""The engine's loop: take jobs, plan a step, decode it, choose tokens, send them."""

import contextlib
import socket
import threading
import time

from agent.engine import frames
from agent.engine.batch import Share, plan
from agent.engine.grammar import SchemaError
from agent.engine.inbox import Inbox
from agent.engine.llama import Context, Model
from agent.engine.prefix import place
from agent.engine.sequence import Sequence
from agent.engine.template import ChatTemplate, PromptError
from contract.status import Status


class Rejection(Exception):
    """A job that cannot be run; becomes a `Rejected` frame."""

    def __init__(self, status: Status, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class Worker:
    """Runs the jobs of one loaded model."""

    def __init__(
        self, model: Model, context: Context, inbox: Inbox, connection: socket.socket, send_lock: threading.Lock
    ) -> None:
        self._model = model
        self._context = context
        self._inbox = inbox
        self._connection = connection
        self._send_lock = send_lock
        self._template = ChatTemplate(model)
        self._sequences: list[Sequence] = []
        self._free = list(range(context.parallel))  # the one that was used last comes last
        self._resident: dict[int, list[int]] = {slot: [] for slot in self._free}  # tokens that free slots still hold
        self._out: list[bytes] = []

    def run(self) -> None:
        """Serves until the process ends."""
        while True:
            for job, arrived in self._inbox.take(block=not self._sequences):
                self._inbox.step_started = time.monotonic()
                self._begin(job, arrived)
            self._inbox.step_started = time.monotonic()
            self._step()
            self._inbox.step_started = None
            self._flush()

    def _begin(self, job: frames.Generate, arrived: float) -> None:
        try:
            sequence = self._admit(job, arrived)
        except Rejection as no:
            self._inbox.forget(job.job)
            self._send(frames.Rejected(job=job.job, status=no.status, code=no.code, message=no.message))
            return
        self._place(sequence)
        self._sequences.append(sequence)
        self._inbox.watch(sequence)
        if sequence.finish_reason:  # the tokens to resume from were already the whole answer
            self._end(sequence)

    def _admit(self, job: frames.Generate, arrived: float) -> Sequence:
        unknown = next((t for t in job.sampling.logit_bias if t >= self._model.num_vocab), None)
        if unknown is not None:
            raise Rejection(
                Status.INVALID,
                "logit_bias",
                f"cannot bias token {unknown}: this model's tokens are 0 to {self._model.num_vocab - 1}",
            )
        try:
            prompt = self._template.prompt(job.turns)
        except PromptError as error:
            raise Rejection(
                Status.INVALID,
                "messages",
                f"cannot use these messages: the model's chat template refuses them: {error}",
            ) from None
        room, length = self._context.context_tokens, len(prompt.tokens)
        if length >= room:
            raise Rejection(
                Status.TOO_LARGE,
                "messages",
                f"cannot take a prompt of {length} tokens: with the answer at most {room} fit this node's context",
            )
        try:
            return Sequence(self._model, job, prompt, room, arrived)
        except SchemaError as error:
            raise Rejection(
                Status.INVALID,
                "response_format.json_schema.schema",
                f"cannot accept response_format.json_schema.schema: {error}",
            ) from None

    def _place(self, sequence: Sequence) -> None:
        """Gives a sequence a slot, with as much of its prompt as some slot has computed already."""
        running = {other.slot: other.tokens[: other.position] for other in self._sequences}
        chosen = place(sequence.tokens, sequence.cuts, self._resident | running, self._free)
        if chosen.copy_from is not None:
            self._context.copy(chosen.copy_from, chosen.slot)
        self._free.remove(chosen.slot)
        sequence.begin(chosen.slot, self._context.keep(chosen.slot, chosen.num_cached_tokens))

    def _step(self) -> None:
        self._context.clear_abort()
        for sequence in [s for s in self._sequences if s.stop_reason]:
            text = sequence.end(sequence.stop_reason or "error")
            self._send(frames.Tokens(sequence.job, [], text))
            self._end(sequence)
        shares = plan(self._sequences, self._context.batch_tokens)
        if not shares:
            return
        if not self._context.decode(_rows(shares)):
            for share in shares:
                self._context.truncate(share.sequence.slot, share.sequence.position)
            return
        row = -1
        for share in shares:
            row += share.num_tokens
            share.sequence.position += share.num_tokens
            if share.samples:
                self._choose(share.sequence, row)

    def _choose(self, sequence: Sequence, row: int) -> None:
        token, text = sequence.choose(self._context.logits(row))
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
        self._sequences.remove(sequence)
        self._inbox.forget(sequence.job)
        self._resident[sequence.slot] = sequence.tokens[: sequence.position]
        self._free.append(sequence.slot)
        sequence.close()

    def _send(self, frame: frames.FromEngine) -> None:
        self._out.append(frames.encode(frame))

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if data:
            with self._send_lock, contextlib.suppress(BrokenPipeError):  # the inbox sees the same end and exits
                self._connection.sendall(data)


def _rows(shares: list[Share]) -> list[tuple[int, int, int, bool]]:
    rows = []
    for sequence, count, samples in shares:
        start = sequence.position
        rows += [(sequence.tokens[p], p, sequence.slot, False) for p in range(start, start + count)]
        if samples:
            rows[-1] = (*rows[-1][:3], True)
    return rows
