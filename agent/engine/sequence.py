"""One generation: its prompt, where it stands, and what it has said."""

import time
from enum import Enum, auto

from agent.engine.confidence import Confidence
from agent.engine.frames import Generate
from agent.engine.grammar import Grammar, fits
from agent.engine.kv_state import Bytes
from agent.engine.llama import Model
from agent.engine.prefix import Computed, Marks, marks_of, useful_cuts
from agent.engine.row import Logits
from agent.engine.sampling import Sampler
from agent.engine.template import Prompt
from agent.engine.text import TextStream


class Stage(Enum):
    """Where a sequence stands."""

    PROMPT = auto()
    DECODE = auto()
    ENDED = auto()


class Sequence:
    """A running generation.

    `tokens` is the prompt plus what was generated; `position` says how many of them are in the memory of `stream`, its
    place in a context, or in `saved` while it is parked (then `stream` is None). The adapter acts from `activation` on.
    All of it belongs to the engine's thread, but for `stop_reason`, which any thread may set.
    """

    def __init__(self, model: Model, job: Generate, prompt: Prompt, room: int, arrived: float, activation: int) -> None:
        self._model = model
        self.job = job.job
        self.priority = job.priority
        self.adapter = job.adapter
        self.activation = activation
        self.stream: int | None = None
        self.saved: Bytes | None = None
        self.adapter_number = 0
        self.slot = 0
        self.leader: tuple[Sequence, int] | None = None
        self.tokens = prompt.tokens + job.resume
        self.cuts = useful_cuts(prompt.cuts, activation if job.adapter else None)
        self.num_prompt_tokens = len(prompt.tokens)
        self.num_generated = 0
        self.num_cached_tokens = 0
        self.position = 0
        self.deadline = arrived + job.deadline_ms / 1000
        self.stop_reason: str | None = None
        self.finish_reason: str | None = None
        self.first_token_ms: float | None = None
        self.text = ""
        self._arrived = arrived
        self._schema = job.output_schema
        self._max_tokens = min(job.max_tokens, room - len(prompt.tokens))
        self._stream = TextStream(job.stops)
        self._confidence = Confidence(model.scratch)
        self._grammar = Grammar(model, job.output_schema) if job.output_schema is not None else None
        self._sampler = Sampler(model, job.sampling)
        for token in job.resume:
            self._take(token)

    @property
    def stage(self) -> Stage:
        """Where it stands."""
        if self.finish_reason:
            return Stage.ENDED
        return Stage.DECODE if self.position == len(self.tokens) - 1 else Stage.PROMPT

    @property
    def num_portion_tokens(self) -> int:
        """How many tokens are to be computed up to the next cut, or to the end."""
        return next((cut for cut in self.cuts if cut > self.position), len(self.tokens)) - self.position

    @property
    def fits(self) -> bool | None:
        """Whether the text fits the schema that was asked for; None when there was none."""
        return None if self._schema is None else fits(self._schema, self.text)

    @property
    def confidence(self) -> float | None:
        """0 to 1; None when no token was chosen."""
        return self._confidence.value

    @property
    def marks(self) -> Marks:
        """All of `tokens` as the prefix cache compares them."""
        return marks_of(self.tokens, self.adapter_number, self.activation)

    @property
    def computed(self) -> Computed:
        """What its memory holds."""
        return Computed(self.marks[: self.position], self.num_prompt_tokens, self.slot)

    def begin(self, stream: int, num_cached_tokens: int) -> None:
        """Takes a place whose memory holds the first tokens already."""
        self.stream = stream
        self.position = self.num_cached_tokens = num_cached_tokens

    def choose(self, logits: Logits) -> tuple[int, str]:
        """Takes the next token from `logits`; returns it and the text that became certain.

        Raises:
            NoChoice: they are no numbers.
        """
        row = self._sampler.row(logits)
        token = self._sampler.choose(row)
        if self._grammar and not self._grammar.allows(token):
            token = self._sampler.choose(row, self._grammar.sampler)
            if not self._grammar.allows(token):
                self.finish_reason = "error"  # nothing in the vocabulary fits: the check of the whole text says so
                return token, ""
        self._confidence.note(row, token)
        if self.first_token_ms is None:
            self.first_token_ms = (time.monotonic() - self._arrived) * 1000
        self.tokens.append(token)
        return token, self._take(token)

    def end(self, reason: str) -> str:
        """Ends it from outside; returns the text that was held back."""
        self.finish_reason = reason
        return self._flush()

    def close(self) -> None:
        """Frees what llama.cpp holds for it."""
        self._sampler.close()
        if self._grammar:
            self._grammar.close()

    def _take(self, token: int) -> str:
        self.num_generated += 1
        self._sampler.accept(token)
        if self._grammar:
            self._grammar.accept(token)
        if self._model.ends(token):
            self.finish_reason = "stop"
            return self._flush()
        text = self._stream.push(self._model.piece(token))
        self.text += text
        if self._stream.stopped:
            self.finish_reason = "stop"
        elif self.num_generated >= self._max_tokens:
            self.finish_reason = "length"
            return text + self._flush()
        return text

    def _flush(self) -> str:
        text = self._stream.finish()
        self.text += text
        return text
