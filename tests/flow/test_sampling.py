"""The sampler's shortlist against llama.cpp's chain over the whole vocabulary, on the real model."""

from pathlib import Path

import numpy as np
import pytest

from agent.engine.frames import Sampling
from agent.engine.grammar import Grammar
from agent.engine.llama import Abort, Context, Model
from agent.engine.sampling import Sampler

NUM_TOKENS = 60
SETTINGS = [
    Sampling(temperature=0, top_p=1, top_k=0, seed=1),
    Sampling(temperature=0.2, top_p=0.9, top_k=40, seed=2),
    Sampling(temperature=1.0, top_p=0.5, top_k=200, seed=3),
    Sampling(temperature=0.7, top_p=0.95, top_k=0, seed=4),
    Sampling(temperature=2.0, top_p=1, top_k=0, seed=5),
]


@pytest.mark.parametrize("want", SETTINGS, ids=str)
def test_the_shortlist_changes_no_choice(model: Path, want: Sampling) -> None:
    """With the same seed, the shortlist and the whole vocabulary give the same tokens."""
    loaded = Model(str(model), use_extra_bufts=False, use_mmap=True)
    context = Context(loaded, Abort(), context_tokens=128, parallel=1, batch_tokens=8, threads=1)
    short, whole = Sampler(loaded, want), Sampler(loaded, want)
    everything = np.arange(loaded.num_vocab, dtype=np.int32)
    token, chosen, expected = 1, [], []
    for position in range(NUM_TOKENS):
        context.decode([(token, position, 0, True)])
        logits = context.logits(0)
        chosen.append(short.choose(short.row(logits)))
        expected.append(whole._through_chain(everything, logits))
        token = expected[-1]
    for opened in (short, whole, context, loaded):
        opened.close()
    assert chosen == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("want", SETTINGS, ids=str)
def test_looking_at_few_tokens_changes_no_constrained_choice(model: Path, want: Sampling) -> None:
    """With the same seed, a grammar over the likeliest tokens and over the whole vocabulary give the same tokens."""
    loaded = Model(str(model), use_extra_bufts=False, use_mmap=True)
    context = Context(loaded, Abort(), context_tokens=128, parallel=1, batch_tokens=8, threads=1)
    few, whole = Sampler(loaded, want), Sampler(loaded, want)
    grammar = Grammar(loaded, {"type": "array", "items": {"type": "integer"}, "minItems": 30})
    everything = np.arange(loaded.num_vocab, dtype=np.int32)
    token, chosen, expected = 1, [], []
    for position in range(NUM_TOKENS):
        context.decode([(token, position, 0, True)])
        logits = context.logits(0)
        chosen.append(few.choose(few.row(logits), grammar.sampler))
        expected.append(whole._through_chain(whole._fitting(everything, logits, grammar.sampler), logits))
        token = expected[-1]
        if not grammar.allows(token):
            break
        grammar.accept(token)
    for opened in (few, whole, grammar, context, loaded):
        opened.close()
    assert chosen == expected
    assert len(set(expected)) > 1
