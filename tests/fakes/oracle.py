"""What a model says with an adapter, computed by llama.cpp's plain means: one sequence, one token at a time."""

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from agent.engine.frames import Activation
from agent.engine.llama import Abort, Context, Model
from agent.engine.template import ChatTemplate, Prompt

Turns = tuple[tuple[str, str], ...]


class Question(NamedTuple):
    """What is asked; `adapter` is a file."""

    turns: Turns
    adapter: Path | None = None
    activation: Activation = "prompt"


class Answer(NamedTuple):
    """The greedy answer: its tokens, and for each of them the logits it was chosen from."""

    tokens: list[int]
    logits: list[npt.NDArray[np.float32]]


class Difference(NamedTuple):
    """The first token in which an answer differs, and how far its logit was below that of the best one."""

    at: int
    margin: float


class Oracle:
    """Computes an answer once; gives it as often as it is asked for."""

    def __init__(self, model: Path, *, context_tokens: int = 512) -> None:
        self._model = Model(str(model), use_extra_bufts=False, use_mmap=True)
        self._context = Context(
            self._model, Abort(), context_tokens=context_tokens, parallel=1, batch_tokens=128, threads=1
        )
        self._adapters: dict[Path, Any] = {}
        self._known: dict[Question, Answer] = {}

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._model)

    def prompt(self, turns: Turns) -> Prompt:
        """The prompt of some turns."""
        return self._template.prompt(list(turns))

    def answer(self, question: Question, num_tokens: int) -> Answer:
        """The first tokens of the answer, the one that ends it included."""
        known = self._known.get(question)
        ended = known is not None and self._model.ends(known.tokens[-1])
        if known is None or (len(known.tokens) < num_tokens and not ended):
            known = self._known[question] = self._compute(question, num_tokens)
        return Answer(known.tokens[:num_tokens], known.logits[:num_tokens])

    def text(self, question: Question, num_tokens: int) -> str:
        """The answer as text."""
        tokens = self.answer(question, num_tokens).tokens
        pieces = [self._model.piece(token) for token in tokens if not self._model.ends(token)]
        return b"".join(pieces).decode(errors="replace")

    def difference(self, question: Question, tokens: list[int]) -> Difference | None:
        """Where `tokens` leave the answer's beginning, or None."""
        answer = self.answer(question, len(tokens)) if tokens else Answer([], [])
        for at, (token, row) in enumerate(zip(tokens, answer.logits, strict=False)):
            if token != answer.tokens[at]:
                return Difference(at, float(row.max() - row[token]))
        return None if len(tokens) <= len(answer.tokens) else Difference(len(answer.tokens), float("inf"))

    def close(self) -> None:
        """Frees all of it."""
        self._context.close()
        for adapter in self._adapters.values():
            lib.llama_adapter_lora_free(adapter)
        self._model.close()

    def _compute(self, question: Question, num_tokens: int) -> Answer:
        prompt = self.prompt(question.turns)
        begin = prompt.user if question.activation == "user" else 0
        self._context.truncate(0, 0)
        self._context.set_adapter(None)
        made = Answer([], [])
        for position in range(len(prompt.tokens) + num_tokens - 1):
            if position == begin and question.adapter:
                self._context.set_adapter(self._loaded(question.adapter))
            token = (prompt.tokens + made.tokens)[position]
            wanted = position >= len(prompt.tokens) - 1
            self._context.decode([(token, position, 0, wanted)])
            if wanted:
                made.logits.append(self._context.logits(0).copy())
                made.tokens.append(int(made.logits[-1].argmax()))
                if self._model.ends(made.tokens[-1]):
                    break
        return made

    def _loaded(self, path: Path) -> Any:
        if path not in self._adapters:
            self._adapters[path] = lib.llama_adapter_lora_init(self._model.pointer, ctypes.c_char_p(bytes(path)))
        assert self._adapters[path]
        return self._adapters[path]
