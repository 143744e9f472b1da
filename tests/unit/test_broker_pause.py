"""How long a broker that ends is left alone before it is started again."""

import pytest

from fleet.child_broker import FIRST_PAUSE_S, MAX_PAUSE_S, next_pause_s


def test_the_pause_doubles_up_to_a_minute_while_it_does_not_last() -> None:
    """A broker that cannot run does not fill the log."""
    pauses_s, pause_s = [], 0.0
    for _ in range(8):
        pause_s = next_pause_s(pause_s, 0.5)
        pauses_s.append(pause_s)
    assert pauses_s == [1, 2, 4, 8, 16, 32, MAX_PAUSE_S, MAX_PAUSE_S]


@pytest.mark.parametrize("last_s", [0.0, 8.0, MAX_PAUSE_S])
def test_one_that_lasted_is_started_again_soon(last_s: float) -> None:
    """What it died of is something new."""
    assert next_pause_s(last_s, MAX_PAUSE_S + 1) == FIRST_PAUSE_S
