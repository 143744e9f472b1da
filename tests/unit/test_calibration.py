"""From confidence to probability."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calibration import MIN_OUTCOMES, Outcome, calibrate, calibration_error, threshold

OUTCOMES = st.lists(
    st.builds(Outcome, confidence=st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), right=st.booleans()),
    min_size=MIN_OUTCOMES,
    max_size=120,
)


def outcomes(seed: int, number: int) -> list[Outcome]:
    """Answers of an engine that is far too sure: right with the square of its confidence."""
    rng = random.Random(seed)
    sure = [rng.random() for _ in range(number)]
    return [Outcome(one, rng.random() < one**2) for one in sure]


def test_a_confidence_that_is_too_sure_becomes_a_probability() -> None:
    """On other answers than it was made from: the error falls from a sixth to below a twentieth."""
    made, seen = calibrate(outcomes(1, 2_000)), outcomes(2, 2_000)
    assert made is not None
    assert calibration_error([(one.confidence, one.right) for one in seen]) > 0.15
    assert calibration_error([(made.probability(one.confidence), one.right) for one in seen]) <= 0.05


def test_few_outcomes_say_nothing() -> None:
    """One below the limit is too few."""
    assert calibrate(outcomes(1, MIN_OUTCOMES - 1)) is None
    assert calibrate(outcomes(1, MIN_OUTCOMES)) is not None


@given(OUTCOMES)
def test_it_is_the_isotonic_regression(seen: list[Outcome]) -> None:
    """By the min-max formula: of all beginnings the most, of all ends the least mean in between."""
    made = calibrate(seen)
    assert made is not None
    levels = sorted({one.confidence for one in seen})
    for level in levels:
        wanted = max(min(_mean(seen, low, high) for high in levels if high >= level) for low in levels if low <= level)
        assert made.probability(level) == pytest.approx(wanted)


def _mean(seen: list[Outcome], low: float, high: float) -> float:
    some = [one.right for one in seen if low <= one.confidence <= high]
    return sum(some) / len(some)


@given(st.lists(st.sampled_from([0.1, 0.3, 0.8, 0.9]), max_size=60), st.floats(0, 1))
def test_a_threshold_never_sends_more_than_its_budget(probabilities: list[float], share: float) -> None:
    """However many are equal; and it sends as many as it can without halving those."""
    at = threshold(probabilities, share)
    num_sent = sum(one < at for one in probabilities)
    assert num_sent <= share * len(probabilities)
    if at != float("inf"):
        assert sum(one <= at for one in probabilities) > int(share * len(probabilities))
