"""A row of logits."""

import math

import numpy as np
import pytest

from agent.engine.row import NoChoice, Row


def test_what_is_near_the_best_is_found_in_order() -> None:
    """Tokens ascend; the depth counts from the best one, its end included."""
    row = Row(np.array([0, 5, -math.inf, 3, 4], np.float32))
    assert (row.best, row.top) == (1, 5.0)
    assert row.within(2).tolist() == [1, 3, 4]
    assert row.within(1).tolist() == [1, 4]


@pytest.mark.parametrize("logits", [[math.nan, 1, 2], [1, math.inf], [-math.inf, -math.inf]])
def test_rows_that_are_no_numbers_give_no_choice(logits: list[float]) -> None:
    """Whatever is among them."""
    with pytest.raises(NoChoice):
        Row(np.array(logits, np.float32))
