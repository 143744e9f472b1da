"""A process that compiles schemas and follows their grammars: `python -m tests.unit.grammar_judge MODEL`.

llama.cpp may abort or hang on a bad grammar, so a test asks this process, one JSON line for each schema, and finds out.
The answer has the reason why the schema is refused, or a text that the grammar leads to and what it took.
"""

import ctypes
import json
import random
import sys
import time
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from agent.engine.grammar import Grammar, SchemaError, fits
from agent.engine.llama import Model

MAX_TOKENS = 60


class Judge:
    """Follows grammars over the vocabulary of a model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pieces = [model.piece(token) for token in range(model.num_vocab)]
        self._ends = {token for token in range(model.num_vocab) if model.ends(token)}
        # Short tokens can write anything, long ones take the most ways through an ambiguous grammar; the 49,152 tokens
        # of a whole vocabulary would make the tests slow.
        by_length = sorted(filter(self._is_text, range(model.num_vocab)), key=lambda token: len(self._pieces[token]))
        short = [token for token in by_length if len(self._pieces[token]) <= 2]
        self._vocabulary = np.array(sorted({*short, *by_length[-300:], *self._ends}), dtype=np.int32)
        self._closing = {token for token, piece in enumerate(self._pieces) if piece in (b'"', b"}", b"]", b'"}')}

    def judge(self, schema: dict[str, Any], seed: int) -> dict[str, Any]:
        """Compiles a schema and follows its grammar on a random way that prefers to end."""
        started = time.monotonic()
        try:
            grammar = Grammar(self._model, schema)
        except SchemaError as error:
            return {"refused": str(error), "compile_s": time.monotonic() - started}
        compiled = time.monotonic()
        text, slowest_s, whole = self._follow(grammar, random.Random(seed))
        grammar.close()
        return {
            "refused": None,
            "compile_s": compiled - started,
            "slowest_s": slowest_s,
            "text": text,
            "whole": whole,
            "fits": whole and fits(schema, text),
        }

    def _is_text(self, token: int) -> bool:
        """Whether a token is text on its own. llama.cpp and Python count the characters of torn ones differently."""
        return self._pieces[token].decode(errors="ignore").encode() == self._pieces[token]

    def _follow(self, grammar: Grammar, choices: random.Random) -> tuple[str, float, bool]:
        """A text that the grammar allows, the time of the slowest token, and whether the text is whole."""
        written, slowest_s, whole = b"", 0.0, False
        for _ in range(MAX_TOKENS):
            started = time.monotonic()
            allowed = self._allowed(grammar)
            slowest_s = max(slowest_s, time.monotonic() - started)
            if not allowed:
                break
            closing = self._closing.intersection(allowed)
            if self._ends.intersection(allowed) and choices.random() < 0.7:
                whole = True
                break
            token = min(closing) if closing and choices.random() < 0.5 else choices.choice(allowed)
            if token in self._ends:
                whole = True
                break
            started = time.monotonic()
            grammar.accept(token)
            slowest_s = max(slowest_s, time.monotonic() - started)
            written += self._pieces[token]
        return written.decode(errors="replace"), slowest_s, whole

    def _allowed(self, grammar: Grammar) -> list[int]:
        """The ids of the tokens that may come next."""
        candidates = self._model.candidates[: len(self._vocabulary)]
        candidates["id"] = self._vocabulary
        candidates["logit"] = 1.0
        array = lib.llama_token_data_array(
            data=candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data)),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(grammar.sampler, ctypes.byref(array))
        return [int(token) for token in candidates["id"][candidates["logit"] > 0]]


if __name__ == "__main__":
    judge = Judge(Model(sys.argv[1], use_extra_bufts=False, use_mmap=True))
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(judge.judge(asked["schema"], asked["seed"])) + "\n")
        sys.stdout.flush()
