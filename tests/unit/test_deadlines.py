"""Deadlines: absolute, relative, both, none, and with a clock that is not set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.deadlines import CLOCK_FLOOR_MS, clock_is_set, deadline_ms
from contract.limits import DEFAULT_TTL_MS

NOW = CLOCK_FLOOR_MS + 1_000_000
BOOT = 12_345  # of a device that starts in 1970


@pytest.mark.parametrize(
    ("now_ms", "exp", "ttl_ms", "expected"),
    [
        (NOW, None, None, NOW + DEFAULT_TTL_MS),
        (NOW, NOW + 5, None, NOW + 5),
        (NOW, None, 7, NOW + 7),
        (NOW, NOW + 5, 7, NOW + 5),
        (NOW, NOW + 9, 7, NOW + 7),
        (NOW, NOW - 5, None, NOW - 5),
        (NOW, NOW - 5, 7, NOW - 5),
        (NOW, 0, None, 0),
        (BOOT, NOW, None, BOOT + DEFAULT_TTL_MS),
        (BOOT, NOW, 7, BOOT + 7),
        (BOOT, 0, None, BOOT + DEFAULT_TTL_MS),
        (BOOT, None, 7, BOOT + 7),
    ],
)
def test_the_deadline_is_the_earlier_one_that_the_clock_can_know(
    now_ms: int, exp: int | None, ttl_ms: int | None, expected: int
) -> None:
    """Of both the earlier, one in the past stays there, and a clock that is not set knows durations only."""
    assert deadline_ms(now_ms, exp=exp, ttl_ms=ttl_ms) == expected


def test_the_default_is_the_nodes() -> None:
    """A node may set another default for requests that name none."""
    assert deadline_ms(NOW, exp=None, ttl_ms=None, default_ttl_ms=9) == NOW + 9
    assert deadline_ms(BOOT, exp=NOW, ttl_ms=None, default_ttl_ms=9) == BOOT + 9


def test_a_clock_before_the_first_shoal_is_not_set() -> None:
    """The floor itself is a possible time; a millisecond before is not."""
    assert clock_is_set(CLOCK_FLOOR_MS)
    assert not clock_is_set(CLOCK_FLOOR_MS - 1)
    assert not clock_is_set(0)


@given(st.integers(0, 2**53), st.none() | st.integers(0, 2**53), st.none() | st.integers(1, 10**8))
def test_a_ttl_is_never_exceeded(now_ms: int, exp: int | None, ttl_ms: int | None) -> None:
    """Whatever the clock shows, an answer is not waited for longer than its `ttl_ms`."""
    until = deadline_ms(now_ms, exp=exp, ttl_ms=ttl_ms)
    assert until <= now_ms + (ttl_ms if ttl_ms is not None else 2**53 + DEFAULT_TTL_MS)
