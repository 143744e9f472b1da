"""A span of time as people write it. Pure."""

import re

from fleet.errors import UsageError

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> int:
    """The milliseconds of a text as in "30m".

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise UsageError(f"cannot use {text!r} as a duration: write a number and a unit, as in 90s, 30m, 12h or 7d")
    return int(found[1]) * UNITS_MS[found[2]]
