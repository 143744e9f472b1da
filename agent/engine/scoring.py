"""How probable texts are to a model: what the gate asks (docs/adr/0066)."""

import re
import time
from collections.abc import Callable

import numpy as np

from agent.engine import frames
from agent.engine.adapters import Adapters, PlainAdapters
from agent.engine.llama import Context, LoadError, Model
from agent.engine.row import Logits
from agent.engine.template import ChatTemplate, PromptError

# A text is scored in windows of so many tokens; the first of a window has no probability.
WINDOW_TOKENS = 512
# What looks like a control token of some model: <|im_end|>, </s>, <start_of_turn>, [INST].
_MARK = re.compile(r"<\|?/?[A-Za-z][\w-]{0,40}\|?>|\[/?[A-Z_]{2,20}\]")
FASTER = 0.25  # quantile of the steps that tells the speed: what others take of the processor slows some of them


class Scorer:
    """Scores texts in a context of its own, so that the memory of no answer is touched."""

    def __init__(
        self, model: Model, template: ChatTemplate, make_context: Callable[[Model, int], Context], adapters: Adapters
    ) -> None:
        self._model = model
        self._template = template
        self._context = make_context(model, 1)
        self._adapters = adapters
        self._plain = PlainAdapters(model)

    def score(self, job: frames.Score, on_step: Callable[[], None]) -> frames.Scored:
        """How probable a text or a conversation is. `on_step` hears of each step, so that a long text is no stall.

        Raises:
            ModelError: the adapter cannot be used.
            PromptError: the template refuses the conversation.
        """
        adapter = self._adapters.find(job.adapter) if job.adapter else None
        self._context.set_adapter(self._plain.pointer(adapter) if adapter else None)
        prompt = self._template.prompt(job.turns).tokens if job.turns else []
        tokens = prompt or self._model.tokenize(job.text, special=False)
        nats, count = 0.0, 0
        window = min(WINDOW_TOKENS, self._context.context_tokens)
        for start in range(0, len(tokens), window):
            lost = self._window(tokens[start : start + window], on_step)
            if lost is None:
                return frames.Scored(job=job.job, num_tokens=len(tokens), nats=None)
            nats, count = nats + lost, count + len(tokens[start : start + window]) - 1
        return frames.Scored(
            job=job.job,
            num_tokens=count,
            nats=nats,
            unknown_marks=self._unknown_marks(job.turns) if job.turns else 0,
            lacks_marks=self._lacks_marks(job.turns) if job.turns else False,
            decode_tok_s=self._decode(tokens, job.num_decode, on_step),
        )

    def _window(self, tokens: list[int], on_step: Callable[[], None]) -> float | None:
        self._context.keep(0, 0)
        nats = 0.0
        for start in range(0, len(tokens) - 1, self._context.batch_tokens):
            on_step()
            portion = tokens[start : min(start + self._context.batch_tokens, len(tokens) - 1)]
            self._context.decode([(token, start + at, 0, True) for at, token in enumerate(portion)])
            for at in range(len(portion)):
                lost = _nats(self._context.logits(at), tokens[start + at + 1])
                if lost is None:
                    return None
                nats += lost
        return nats

    def _decode(self, tokens: list[int], count: int, on_step: Callable[[], None]) -> float | None:
        """Tokens a second, one by one behind a short beginning."""
        self._context.keep(0, 0)
        times = []
        for at, token in enumerate(tokens[:count]):
            on_step()
            started = time.monotonic()
            self._context.decode([(token, at, 0, True)])
            times.append(time.monotonic() - started)
        return 1 / float(np.quantile(times, FASTER)) if times else None

    def _lacks_marks(self, turns: list[tuple[str, str]]) -> bool:
        try:
            own = ChatTemplate(self._model).words(turns)
        except (LoadError, PromptError):
            return False
        return self._has_marks(own) and not self._has_marks(self._template.words(turns))

    def _has_marks(self, words: str) -> bool:
        return any(self._model.is_control(token) for token in self._model.tokenize(words, special=True))

    def _unknown_marks(self, turns: list[tuple[str, str]]) -> int:
        marks = set(_MARK.findall(self._template.words(turns)))
        return sum(len(self._model.tokenize(mark, special=True)) != 1 for mark in marks)


def _nats(logits: Logits, token: int) -> float | None:
    """Minus the logarithm of a token's probability; None when a logit is no finite number."""
    top = float(logits.max())
    if not np.isfinite(logits).all():
        return None
    return top + float(np.log(np.exp(logits - top).sum())) - float(logits[token])
