"""How sure the model was, as one number."""

import math
from functools import cache

import numpy as np
import pytest

from agent.engine.confidence import Confidence
from agent.engine.row import Row

NUM_VOCAB = 32


def confidence(*choices: tuple[list[float], int]) -> Confidence:
    """Of these choices: logits, and the token that was taken."""
    made = Confidence(np.empty(max((len(logits) for logits, _ in choices), default=1), np.float32))
    for logits, token in choices:
        made.note(Row(np.array(logits, np.float32)), token)
    return made


@cache
def mean_of_answers(num_tokens: int) -> float:
    """The mean confidence of answers of this length; all tokens come from the same distribution."""
    random = np.random.default_rng(num_tokens)
    values = []
    for _ in range(8000 // num_tokens):
        answer = Confidence(np.empty(NUM_VOCAB, np.float32))
        for _ in range(num_tokens):
            logits = random.normal(0, 4, NUM_VOCAB).astype(np.float32)
            weights = np.exp(logits - logits.max())
            answer.note(Row(logits), int(random.choice(NUM_VOCAB, p=weights / weights.sum())))
        values.append(answer.value or 0.0)
    return sum(values) / len(values)


@pytest.mark.parametrize("num_tokens", [10, 200])
def test_length_counts_neither_for_nor_against(num_tokens: int) -> None:
    """Short and long answers of the same quality have the same confidence on average, within 6 percent."""
    assert mean_of_answers(num_tokens) == pytest.approx(mean_of_answers(50), rel=0.06)


def test_without_a_choice_there_is_none() -> None:
    """An answer of no tokens says nothing about the model."""
    assert Confidence(np.empty(NUM_VOCAB, np.float32)).value is None


def test_the_ends_of_the_scale() -> None:
    """1 where no other token had a chance, 0 where the first two were equal and something unlikely was taken."""
    assert confidence(([50, 0, 0], 0), ([50, 0, 0], 0)).value == pytest.approx(1)
    assert confidence(([50, 50, 0], 2)).value == pytest.approx(0, abs=1e-6)


def test_it_is_half_the_probability_and_half_the_lead() -> None:
    """With one token: its probability in the whole vocabulary, and that of the best against the second alone."""
    logits = [2.0, 1.0, 0.5]
    probability = math.exp(1.0) / sum(map(math.exp, logits))
    lead = (math.exp(2) - math.exp(1)) / (math.exp(2) + math.exp(1))
    assert confidence((logits, 1)).value == pytest.approx((probability + lead) / 2)


def test_one_wavering_token_in_five_shows() -> None:
    """Sure everywhere else, an answer that wavers in places is less sure than its mean says."""
    sure, unsure = ([20.0, 0.0, 0.0], 0), ([1.0, 1.0, 1.0], 0)
    value = confidence(*[sure] * 40, *[unsure] * 10).value
    assert value is not None
    assert value < 0.65


def test_a_token_that_was_ruled_out_is_no_obstacle() -> None:
    """Logits of minus infinity, as of banned tokens, count as nothing."""
    assert confidence(([3, -math.inf, -math.inf], 0)).value == pytest.approx(1)
    assert confidence(([3, -math.inf, 3], 1)).value == 0
