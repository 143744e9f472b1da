"""Which adapters go when bytes are needed. Pure: values in, keys out.

An adapter is worth how often it is asked for, times what it costs to fetch again, for each byte that it takes. What
waiting requests want is worth more than that: those uses are certain.

How often is a count that fades: whenever the counts of all adapters add up to `FULL_USES`, all are halved. So what
was popular gives way after a few thousand requests, however long they take and whatever the device's clock does in
between. Counts are kept for adapters that have gone, too: one that comes back is then worth what it was.

What always holds: the held never go; what goes frees enough; and none goes for nothing: without it, it would not be
enough.
"""

from collections.abc import Iterable

from msgspec import Struct

from agent.errors import AgentError

# A use counts half after about half as many others. Less follows a change sooner, more knows steady demand better
# (docs/adr/0019-eviction.md).
FULL_USES = 4000


class NotEnoughError(AgentError):
    """So many bytes cannot be freed, whatever goes."""


class Candidate(Struct, frozen=True):
    """An adapter that could go.

    `frees_bytes` is what goes with it: a tensor that another adapter needs, a candidate or not, counts for neither. So
    evicting several may free more than was said, never less.
    """

    key: str
    frees_bytes: int
    uses: float
    last_use_ms: int
    fetch_cost: float = 1.0  # of having it again, in any unit: only ratios count
    held: bool = False  # pinned, in use, active, or the last known good one
    queue_place: int | None = None  # of the first waiting request that wants it: 0 is the next to be answered


def choose(candidates: Iterable[Candidate], need_bytes: int) -> list[str]:
    """The keys of what to evict to free `need_bytes`, least valuable first.

    Of what waiting requests want, which goes after all else, the one that is wanted latest goes first. Among equals it
    is the one used longest ago, then the order of the keys decides.

    Raises:
        NotEnoughError: all that is not held would not be enough; the message has the numbers.
    """
    everything = list(candidates)
    chosen: list[Candidate] = []
    freed = 0
    for candidate in sorted((c for c in everything if not c.held and c.frees_bytes > 0), key=_value):
        if freed >= need_bytes:
            break
        chosen.append(candidate)
        freed += candidate.frees_bytes
    if freed < need_bytes:
        held_bytes = sum(c.frees_bytes for c in everything if c.held)
        raise NotEnoughError(
            f"cannot free {need_bytes} bytes: adapters of {freed} bytes may go, {held_bytes} bytes are pinned or in"
            " use; unpinning some or a larger budget would do"
        )
    for candidate in reversed(chosen.copy()):  # small ones may have gone for nothing; the most valuable is spared first
        if freed - candidate.frees_bytes >= need_bytes:
            chosen.remove(candidate)
            freed -= candidate.frees_bytes
    return [candidate.key for candidate in chosen]


def _value(candidate: Candidate) -> tuple[int, float, int, str]:
    """The lowest goes first."""
    if candidate.queue_place is not None:
        return (1, -candidate.queue_place, candidate.last_use_ms, candidate.key)
    worth = candidate.uses * candidate.fetch_cost / candidate.frees_bytes
    return (0, worth, candidate.last_use_ms, candidate.key)
