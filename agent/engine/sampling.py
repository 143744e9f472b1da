"""Choosing a token from a row of logits.

llama.cpp's samplers look at every token of the vocabulary, 0.2 ms a row for 49,152 tokens. Nearly all of them cannot
be chosen, so only a shortlist goes through the chain, at a tenth of that; the outcome is the same:
- the top k are all on the list when it holds at least k tokens,
- tokens further below the best than `NEGLIGIBLE` times the temperature have, all together, less weight than the
  rounding of a float32: 49,152 · e^-30 = 5e-9.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from agent.engine import frames
from agent.engine.llama import Model
from agent.engine.row import Logits, Row

MIN_TEMPERATURE = 1e-3  # below, dividing logits by it leaves float32 and the choice is noise; it means greedy anyway
NEGLIGIBLE = 30.0
NEAR_LOGITS = 8.0  # a first guess at where the top k end
GRAMMAR_LOOKS = (64, 2048)  # so many of the likeliest tokens are looked at before all are
PENALIZED_TOKENS = 256  # so far back a token counts as said
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "choose one"


class Sampler:
    """A llama.cpp sampler chain for one sequence."""

    def __init__(self, model: Model, want: frames.Sampling) -> None:
        self._candidates = model.candidates
        self._all = np.arange(model.num_vocab, dtype=np.int32)
        self._top_k = want.top_k
        self._temperature = want.temperature
        self._is_greedy = want.temperature < MIN_TEMPERATURE
        self._biased = np.array(list(want.logit_bias), dtype=np.int64)
        self._biases = np.array(list(want.logit_bias.values()), dtype=np.float32)
        self._has_penalties = _has_penalties(want)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for make in _links(model, want):
            link = make()
            if not link:
                raise RuntimeError("llama.cpp refuses a sampler")
            lib.llama_sampler_chain_add(self._chain, link)

    def row(self, logits: Logits) -> Row:
        """Adds to logits what the request wants added, in place, and takes in what they say.

        Raises:
            NoChoice: they are no numbers.
        """
        if len(self._biased):
            logits[self._biased] += self._biases
        return Row(logits)

    def choose(self, row: Row, grammar: Any = None) -> int:
        """One token; a grammar, when given, first rules out what does not fit it."""
        if grammar:
            return self._through_chain(self._allowed(row.logits, grammar), row.logits)
        if self._has_penalties:  # they may raise up any token
            return self._through_chain(self._all, row.logits)
        if self._is_greedy:
            return row.best
        return self._through_chain(self._shortlist(row), row.logits)

    def accept(self, token: int) -> None:
        """Tells the chain which token was taken; only penalties want to know."""
        if self._has_penalties:
            lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Frees the chain and its links."""
        lib.llama_sampler_free(self._chain)

    def _shortlist(self, row: Row) -> npt.NDArray[Any]:
        if self._top_k:
            near = row.within(NEAR_LOGITS)
            if len(near) >= self._top_k:
                return near
        return row.within(NEGLIGIBLE * self._temperature)

    def _allowed(self, logits: Logits, grammar: Any) -> npt.NDArray[Any]:
        """The tokens that fit the grammar, ascending; of the unlikely ones only as many as can matter.

        Looking at all takes 3.7 ms, and the likeliest that fits is nearly always among the first few.
        """
        for count in GRAMMAR_LOOKS:
            if self._has_penalties or count >= len(logits):
                break
            ids = np.sort(np.argpartition(logits, -count)[-count:])
            fitting = self._fitting(ids, logits, grammar)
            if self._suffices(logits[fitting], float(logits[ids].min())):
                return fitting
        fitting = self._fitting(self._all, logits, grammar)
        return fitting if len(fitting) else self._all[:1]  # nothing fits: the caller looks, and ends the answer

    def _fitting(self, ids: npt.NDArray[Any], logits: Logits, grammar: Any) -> npt.NDArray[Any]:
        array = self._fill(ids, logits)
        lib.llama_sampler_apply(grammar, ctypes.byref(array))
        return ids[self._candidates["logit"][: len(ids)] > -np.inf]

    def _suffices(self, found: Logits, least: float) -> bool:
        """Whether no further token can matter, when those above the logit `least` were looked at."""
        if not len(found):
            return False
        if self._is_greedy or 0 < self._top_k <= len(found):
            return True
        return least < float(found.max()) - NEGLIGIBLE * self._temperature

    def _fill(self, ids: npt.NDArray[Any], logits: Logits) -> Any:
        candidates = self._candidates[: len(ids)]
        candidates["id"] = ids
        candidates["logit"] = logits[ids] if len(ids) < len(logits) else logits
        return lib.llama_token_data_array(
            data=candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data)),
            size=len(ids),
            selected=-1,
            sorted=False,
        )

    def _through_chain(self, ids: npt.NDArray[Any], logits: Logits) -> int:
        array = self._fill(ids, logits)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise RuntimeError("the sampler chain chose no token")
        return int(array.data[array.selected].id)


def _has_penalties(want: frames.Sampling) -> bool:
    return want.repeat_penalty != 1 or want.presence_penalty != 0 or want.frequency_penalty != 0


def _links(model: Model, want: frames.Sampling) -> list[Callable[[], Any]]:
    """Makers of the chain's samplers, in llama.cpp's own default order."""
    links: list[Callable[[], Any]] = []
    if _has_penalties(want):
        strengths = (want.repeat_penalty, want.frequency_penalty, want.presence_penalty)
        links.append(partial(lib.llama_sampler_init_penalties, model.num_vocab, PENALIZED_TOKENS, *strengths))
    if want.temperature < MIN_TEMPERATURE:
        return [*links, lib.llama_sampler_init_greedy]
    if want.top_k:
        links.append(partial(lib.llama_sampler_init_top_k, want.top_k))
    if want.top_p < 1:
        links.append(partial(lib.llama_sampler_init_top_p, want.top_p, 1))
    if want.min_p > 0:
        links.append(partial(lib.llama_sampler_init_min_p, want.min_p, 1))
    seed = RANDOM_SEED if want.seed is None else want.seed % RANDOM_SEED
    links.append(partial(lib.llama_sampler_init_temp, want.temperature))
    links.append(partial(lib.llama_sampler_init_dist, seed))
    return links
