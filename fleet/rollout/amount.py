"""So many nodes, or so many in a hundred."""

import math

from msgspec import Struct

from fleet.errors import UsageError


class Amount(Struct, frozen=True):
    """A number of nodes, or a percentage of those that it is asked about."""

    number: float
    is_percent: bool = False

    def at_most(self, num_nodes: int) -> int:
        """How many of `num_nodes` are not more than this."""
        return math.floor(self._of(num_nodes))

    def at_least(self, num_nodes: int) -> int:
        """How many of `num_nodes` are not fewer than this."""
        return math.ceil(self._of(num_nodes))

    def _of(self, num_nodes: int) -> float:
        return self.number * num_nodes / 100 if self.is_percent else self.number


def parse_amount(text: str) -> Amount:
    """The amount of `5` or `10%`.

    Raises:
        UsageError: it is neither.
    """
    digits = text.removesuffix("%")
    is_percent = digits != text
    try:
        number = float(digits) if is_percent else int(digits)
    except ValueError:
        number = math.nan
    if not 0 <= number <= (100 if is_percent else 1_000_000):
        raise UsageError(f"cannot use {text!r} as a number of nodes: write one as in 5, or a percentage as in 10%")
    return Amount(number, is_percent)
