"""How long a token lives, as people write it."""

import pytest

from fleet.commands.identity import parse_ttl
from fleet.errors import UsageError


def test_a_number_and_a_unit() -> None:
    """Seconds, minutes, hours and days, in milliseconds."""
    assert [parse_ttl(text) for text in ("90s", "30m", "12h", "7d")] == [90_000, 1_800_000, 43_200_000, 604_800_000]


@pytest.mark.parametrize("text", ["", "30", "m", "-1m", "1.5h", "30 m", "1w", "9999999d", "30m\n"])
def test_anything_else_is_refused(text: str) -> None:
    """It says how to write it."""
    with pytest.raises(UsageError, match="cannot use --ttl"):
        parse_ttl(text)
