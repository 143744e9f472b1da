"""Spans of time, as people write them."""

import pytest

from fleet.duration import parse_duration
from fleet.errors import UsageError


def test_a_number_and_a_unit() -> None:
    """Seconds, minutes, hours and days, in milliseconds."""
    texts = ("90s", "30m", "12h", "7d")
    assert [parse_duration(text) for text in texts] == [90_000, 1_800_000, 43_200_000, 604_800_000]


@pytest.mark.parametrize("text", ["", "30", "m", "-1m", "1.5h", "30 m", "1w", "9999999d", "30m\n"])
def test_anything_else_is_refused(text: str) -> None:
    """It says how to write it."""
    with pytest.raises(UsageError, match="as a duration"):
        parse_duration(text)
