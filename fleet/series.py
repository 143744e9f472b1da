"""Which batches of telemetry came, and which did not. Pure.

One series for each node and kind. A batch counts once, however often and in whatever order they come; one that is
missing stays visible until it comes. A start of the agent begins a new run, whose batches count from 0; what the end of
the run before may have lost, nobody knows.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

MAX_MISSING = 64  # kept by number, so that late ones count; older ones are lost


class Verdict(Enum):
    """What to do with a batch."""

    NEW = "new"
    DOUBLE = "double"


class Series(Struct, frozen=True):
    """What came so far. `ended` are the runs before: what still comes of them is a double."""

    run: str
    next_seq: int
    missing: tuple[int, ...] = ()
    num_lost: int = 0
    ended: tuple[str, ...] = ()

    @property
    def num_gaps(self) -> int:
        """Batches that were sent and are not here."""
        return len(self.missing) + self.num_lost


def take(series: Series | None, run: str, seq: int) -> tuple[Series, Verdict]:
    """A batch has come. To be stored together with its rows.

    A controller that hears a node for the first time counts no gap before.
    """
    if series is None:
        return Series(run, seq + 1), Verdict.NEW
    if run in series.ended:
        return series, Verdict.DOUBLE
    if run != series.run:
        ended = (series.run, *series.ended)[:MAX_MISSING]
        lost = series.num_gaps
        return take(Series(run, 0, num_lost=lost, ended=ended), run, seq)
    if seq in series.missing:
        return replace(series, missing=tuple(one for one in series.missing if one != seq)), Verdict.NEW
    if seq < series.next_seq:
        return series, Verdict.DOUBLE
    newest = range(max(series.next_seq, seq - MAX_MISSING), seq)
    missing = (*series.missing, *newest)
    lost = seq - series.next_seq - len(newest) + max(0, len(missing) - MAX_MISSING)
    moved = replace(series, next_seq=seq + 1, missing=missing[-MAX_MISSING:], num_lost=series.num_lost + lost)
    return moved, Verdict.NEW
