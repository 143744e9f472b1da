"""Which bases an adapter is fit for."""

import pytest

from agent.fitness import obstacle, unfit_bases
from contract.variants import TOLERANCE

TRAINED_ON, BETTER, WORSE, UNKNOWN = "a" * 64, "b" * 64, "c" * 64, "d" * 64
SCORES = {TRAINED_ON: 0.97, BETTER: 0.98, WORSE: 0.67}


def test_without_a_test_it_is_for_its_own_base_alone() -> None:
    """Nothing is known of others; both digests are named."""
    assert obstacle(TRAINED_ON, {}, TRAINED_ON) is None
    assert obstacle(TRAINED_ON, {}, UNKNOWN) == f"it is for the base {TRAINED_ON}, this is {UNKNOWN}"
    assert obstacle(TRAINED_ON, SCORES, UNKNOWN, allow_unfit=True)


@pytest.mark.parametrize("base", [TRAINED_ON, BETTER])
def test_what_is_near_the_best_is_fit(base: str) -> None:
    """Also a base that it was not trained on."""
    assert obstacle(TRAINED_ON, SCORES, base) is None


def test_what_falls_behind_is_unfit_unless_it_is_allowed() -> None:
    """With the scores in the sentence; its own base is no exception."""
    assert unfit_bases(SCORES) == [WORSE]
    why = obstacle(TRAINED_ON, SCORES, WORSE)
    assert why is not None
    assert "0.670" in why
    assert "0.980" in why
    assert obstacle(TRAINED_ON, SCORES, WORSE, allow_unfit=True) is None
    assert obstacle(WORSE, SCORES, WORSE)


def test_the_tolerance_is_two_points() -> None:
    """More than two is too much."""
    assert unfit_bases({TRAINED_ON: 0.9, BETTER: 0.9 - TOLERANCE + 1e-9, WORSE: 0.9 - TOLERANCE - 1e-9}) == [WORSE]
    assert unfit_bases({}) == []
