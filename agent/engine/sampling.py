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
from agent.engine.llama import Logits, Model

MIN_TEMPERATURE = 1e-3  # below, dividing logits by it leaves float32 and the choice is noise; it means greedy anyway
NEGLIGIBLE = 30.0
NEAR_LOGITS = 8.0  # a first guess at where the top k end
RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "choose one"


class Sampler:
    """A llama.cpp sampler chain for one sequence."""

    def __init__(self, model: Model, want: frames.Sampling) -> None:
        self._candidates = model.candidates
        self._all = np.arange(model.num_vocab, dtype=np.int32)
        self._top_k = want.top_k
        self._temperature = want.temperature
        self._is_greedy = want.temperature < MIN_TEMPERATURE
        self._is_biased = bool(want.logit_bias)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for make in _links(model, want):
            link = make()
            if not link:
                raise RuntimeError("llama.cpp refuses a sampler")
            lib.llama_sampler_chain_add(self._chain, link)

    def choose(self, logits: Logits, grammar: Any = None) -> int:
        """One token; a grammar, when given, first rules out what does not fit it."""
        if grammar or self._is_biased:  # these may raise up any token
            return self._through_chain(self._all, logits, grammar)
        if self._is_greedy:
            return int(logits.argmax())
        return self._through_chain(self._shortlist(logits), logits, None)

    def accept(self, token: int) -> None:
        """Tells the chain which token was taken."""
        lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Frees the chain and its links."""
        lib.llama_sampler_free(self._chain)

    def _shortlist(self, logits: Logits) -> npt.NDArray[Any]:
        best = logits.max()
        if self._top_k:
            near = np.flatnonzero(logits >= best - NEAR_LOGITS)
            if len(near) >= self._top_k:
                return near
        return np.flatnonzero(logits >= best - NEGLIGIBLE * self._temperature)

    def _through_chain(self, ids: npt.NDArray[Any], logits: Logits, grammar: Any) -> int:
        count = len(ids)
        if not count:
            raise RuntimeError("no logit is a number")
        candidates = self._candidates[:count]
        candidates["id"] = ids
        candidates["logit"] = logits[ids] if count < len(logits) else logits
        array = lib.llama_token_data_array(
            data=candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data)),
            size=count,
            selected=-1,
            sorted=False,
        )
        if grammar:
            lib.llama_sampler_apply(grammar, ctypes.byref(array))
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise RuntimeError("the sampler chain chose no token")
        return int(array.data[array.selected].id)


def _links(model: Model, want: frames.Sampling) -> list[Callable[[], Any]]:
    """Makers of the chain's samplers, in llama.cpp's own default order."""
    links: list[Callable[[], Any]] = []
    if want.logit_bias:
        biases = (lib.llama_logit_bias * len(want.logit_bias))(
            *(lib.llama_logit_bias(token=token, bias=bias) for token, bias in want.logit_bias.items())
        )
        links.append(partial(lib.llama_sampler_init_logit_bias, model.num_vocab, len(biases), biases))
    if want.temperature < MIN_TEMPERATURE:
        return [*links, lib.llama_sampler_init_greedy]
    if want.top_k:
        links.append(partial(lib.llama_sampler_init_top_k, want.top_k))
    if want.top_p < 1:
        links.append(partial(lib.llama_sampler_init_top_p, want.top_p, 1))
    seed = RANDOM_SEED if want.seed is None else want.seed % RANDOM_SEED
    links.append(partial(lib.llama_sampler_init_temp, want.temperature))
    links.append(partial(lib.llama_sampler_init_dist, seed))
    return links
