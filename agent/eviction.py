"""Which adapters go when bytes are needed. Pure: values in, keys out.

An adapter is worth how often it is asked for, times what it costs to fetch again, for each byte that it takes. How
often is a count of uses that halves with time (`used`), so two numbers an adapter are enough. Keep them for those that
have gone, too: an adapter that comes back is then worth what it was.

What always holds: the held never go; what goes frees enough; and not one of them goes for nothing: without it, it would
not be enough.
"""

import math
from collections.abc import Iterable

from msgspec import Struct

from agent.errors import AgentError

HALF_LIFE_MS = 7 * 24 * 3600 * 1000


class NotEnoughError(AgentError):
    """So many bytes cannot be freed, whatever goes."""


class Candidate(Struct, frozen=True):
    """An adapter that could go.

    `frees_bytes` is what nobody else needs. Tensors that only candidates share count for none of them, so that evicting
    all of them may free more than was said, never less. `uses` are as of `last_use_ms`.
    """

    key: str
    frees_bytes: int
    uses: float
    last_use_ms: int
    fetch_cost: float = 1.0  # to have it again, in any unit: only the ratio between candidates counts
    held: bool = False  # pinned, in use, active, or the last known good one
    queue_place: int | None = None  # of the first waiting request that wants it: 0 is the next to be answered


def used(uses: float, last_use_ms: int, now_ms: int) -> float:
    """`uses` after one more use, now."""
    return faded(uses, last_use_ms, now_ms) + 1


def faded(uses: float, last_use_ms: int, now_ms: int) -> float:
    """What `uses`, counted at the last use, are worth now. A clock that was set back does not add any."""
    return uses * math.exp2(-max(0, now_ms - last_use_ms) / HALF_LIFE_MS)


def choose(candidates: Iterable[Candidate], need_bytes: int, now_ms: int) -> list[str]:
    """The keys of what to evict to free `need_bytes`, least valuable first. Among equals the one
    that was used longest ago goes first, then the order of the keys decides.

    Waiting requests are known uses: what they want goes last, and of that what is wanted latest goes first.

    Raises:
        NotEnoughError: all that is not held would not be enough; the message has the numbers.
    """
    known = list(candidates)
    free = sorted((c for c in known if not c.held and c.frees_bytes > 0), key=lambda c: _rank(c, now_ms))
    chosen: list[Candidate] = []
    freed = 0
    for candidate in free:
        if freed >= need_bytes:
            break
        chosen.append(candidate)
        freed += candidate.frees_bytes
    if freed < need_bytes:
        held_bytes = sum(c.frees_bytes for c in known if c.held)
        raise NotEnoughError(
            f"cannot free {need_bytes} bytes: adapters of {freed} bytes can go, {held_bytes} bytes are pinned or in"
            " use; unpinning some, or a larger budget, would do"
        )
    for candidate in reversed(chosen.copy()):  # small ones may have gone for nothing; the most valuable stays first
        if freed - candidate.frees_bytes >= need_bytes:
            chosen.remove(candidate)
            freed -= candidate.frees_bytes
    return [candidate.key for candidate in chosen]


def _rank(candidate: Candidate, now_ms: int) -> tuple[int, float, int, str]:
    """The lowest goes first."""
    if candidate.queue_place is not None:
        return (1, -candidate.queue_place, 0, candidate.key)
    uses = faded(candidate.uses, candidate.last_use_ms, now_ms)
    return (0, uses * candidate.fetch_cost / candidate.frees_bytes, candidate.last_use_ms, candidate.key)
