"""Leaving a server alone that keeps failing."""

from hypothesis import given
from hypothesis import strategies as st

from fleet.cloud.breaker import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    MAX_FAILURES,
    Breaker,
    asking,
    failed,
    left,
    may_ask,
    worked,
)

LONG_S = FIRST_PAUSE_S * 1.25


def opened() -> Breaker:
    """One that has just opened, at 0 s."""
    breaker = Breaker()
    for _ in range(MAX_FAILURES):
        assert may_ask(breaker, 0.0)
        breaker = failed(asking(breaker), 0.0, 1.0, is_probe=False)
    return breaker


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker()
    for _ in range(3):
        for _ in range(MAX_FAILURES - 1):
            breaker = failed(breaker, 0.0, 0.5, is_probe=False)
        assert may_ask(breaker, 0.0)
        breaker = worked(breaker, is_probe=False)
    assert not may_ask(opened(), LONG_S - 0.01)


def test_after_the_pause_one_probe_goes_and_no_more() -> None:
    """Its success closes, its failure opens for about twice as long; one that was left is tried again."""
    assert may_ask(opened(), LONG_S)
    probing = asking(opened())
    assert not may_ask(probing, LONG_S)
    assert worked(probing, is_probe=True) == Breaker()
    again = failed(probing, LONG_S, 1.0, is_probe=True)
    assert not may_ask(again, LONG_S + 2 * FIRST_PAUSE_S)
    assert may_ask(again, LONG_S + 2.5 * FIRST_PAUSE_S)
    assert may_ask(left(probing), LONG_S)


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    """Neither the pause grows, nor is the probe taken for over, nor does a late success close it."""
    probing = asking(opened())
    assert failed(probing, LONG_S, 1.0, is_probe=False) == probing
    assert failed(opened(), 1.0, 1.0, is_probe=False) == opened()
    assert worked(opened(), is_probe=False) == opened()


def test_a_server_that_says_when_to_come_again_is_not_asked_before() -> None:
    """From its first refusal on."""
    breaker = failed(Breaker(), 0.0, 0.5, is_probe=False, retry_after_s=60.0)
    assert not may_ask(breaker, 59.9)
    assert may_ask(breaker, 60.0)


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans(), st.floats(0, 1)), max_size=60))
def test_it_is_never_closed_for_ever_and_never_stormed(steps: list[tuple[float, bool, float]]) -> None:
    """Whatever happens, the longest pause later it may be asked; between two failed probes at least a pause goes by."""
    breaker, now_s, failures_since = Breaker(), 0.0, 0
    for wait_s, works, number in steps:
        now_s += wait_s
        if may_ask(breaker, now_s):
            is_probe = bool(breaker.open_until_s)
            breaker = asking(breaker)
            breaker = worked(breaker, is_probe=is_probe) if works else failed(breaker, now_s, number, is_probe=is_probe)
            failures_since = 0 if works else failures_since + 1
            if failures_since >= MAX_FAILURES:
                assert not may_ask(breaker, now_s + FIRST_PAUSE_S / 2)
        assert may_ask(breaker, now_s + LONGEST_PAUSE_S)
