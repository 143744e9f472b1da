"""Replays of requests for adapters through a store of limited bytes. Pure: no clock, no files.

A request hits when its adapter is resident as its turn comes. One that is not is brought in, because it must be
resident to answer; there is no passing by.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from agent.eviction import FULL_USES, Candidate, choose

NEVER = 2**62


class Outcome(NamedTuple):
    """Of one replay: the share of requests that hit, and the most bytes that were resident at once."""

    hit_ratio: float
    peak_bytes: int


class Seen(NamedTuple):
    """What a policy may know at a miss.

    Of all adapters the uses, faded and not, and the turn of the last one; and who waits, in order.
    """

    uses: Sequence[float]
    all_uses: Sequence[int]
    last_use: Sequence[int]
    waiting: Sequence[int]


# What is evicted: of these residents, with these bytes of each, so that as many bytes become free.
Policy = Callable[[set[int], Sequence[int], int, Seen], list[int]]


def requests(num_adapters: int, num_requests: int, exponent: float, seed: int, *, shifts: int = 0) -> list[int]:
    """Adapters in the order they are asked for, by Zipf's law; at each shift popularity is dealt anew."""
    rng = random.Random(seed)
    weights = [(rank + 1) ** -exponent for rank in range(num_adapters)]
    ends = [num_requests * part // (shifts + 1) for part in range(shifts + 2)]
    parts = (
        rng.choices(rng.sample(range(num_adapters), num_adapters), weights, k=end - begin)
        for begin, end in pairwise(ends)
    )
    return list(chain.from_iterable(parts))


def replay(asked: Sequence[int], sizes: Sequence[int], budget_bytes: int, policy: Policy, num_waiting: int) -> Outcome:
    """Runs the requests through a store that is empty at first; the next `num_waiting` of them stand in the queue."""
    uses, all_uses, last_use = [0.0] * len(sizes), [0] * len(sizes), [0] * len(sizes)
    total_uses = 0.0
    resident: set[int] = set()
    resident_bytes = peak_bytes = hits = 0
    for turn, adapter in enumerate(asked):
        if adapter in resident:
            hits += 1
        else:
            over = resident_bytes + sizes[adapter] - budget_bytes
            if over > 0:
                seen = Seen(uses, all_uses, last_use, asked[turn + 1 : turn + 1 + num_waiting])
                gone = policy(resident, sizes, over, seen)
                resident.difference_update(gone)
                resident_bytes -= sum(sizes[one] for one in gone)
            resident.add(adapter)
            resident_bytes += sizes[adapter]
            peak_bytes = max(peak_bytes, resident_bytes)
        uses[adapter] += 1
        all_uses[adapter] += 1
        last_use[adapter] = turn
        total_uses += 1
        if total_uses >= FULL_USES:
            uses = [count / 2 for count in uses]
            total_uses /= 2
    return Outcome(hits / len(asked), peak_bytes)


def ours(resident: set[int], sizes: Sequence[int], need_bytes: int, seen: Seen) -> list[int]:
    """The agent's policy."""
    places = {adapter: place for place, adapter in reversed(list(enumerate(seen.waiting)))}
    names = {f"{adapter:06}": adapter for adapter in resident}
    candidates = [
        Candidate(name, sizes[number], seen.uses[number], seen.last_use[number], queue_place=places.get(number))
        for name, number in names.items()
    ]
    return [names[name] for name in choose(candidates, need_bytes)]


def lru(resident: set[int], sizes: Sequence[int], need_bytes: int, seen: Seen) -> list[int]:
    """Least recently used."""
    return _first(sorted(resident, key=lambda one: seen.last_use[one]), sizes, need_bytes)


def lfu(resident: set[int], sizes: Sequence[int], need_bytes: int, seen: Seen) -> list[int]:
    """Least frequently used of all requests so far; among equals the least recently used."""
    return _first(sorted(resident, key=lambda one: (seen.all_uses[one], seen.last_use[one])), sizes, need_bytes)


def _first(order: list[int], sizes: Sequence[int], need_bytes: int) -> list[int]:
    gone: list[int] = []
    for one in order:
        if need_bytes <= 0:
            break
        gone.append(one)
        need_bytes -= sizes[one]
    return gone


def belady(asked: Sequence[int], num_places: int) -> float:
    """The best hit ratio that there is: what is wanted last goes (MIN, Belady 1966).

    It is the optimum for adapters of equal size, which take a place each; with sizes that differ finding it is NP-hard.
    """
    resident: dict[int, int] = {}  # with the turn of the next use
    latest: list[tuple[int, int]] = []  # a heap of (-next use, adapter); outdated entries stay until they come up
    hits = 0
    for adapter, next_use in zip(asked, _next_uses(asked), strict=True):
        if adapter in resident:
            hits += 1
        elif len(resident) == num_places:
            while resident.get(latest[0][1]) != -latest[0][0]:
                heapq.heappop(latest)
            del resident[heapq.heappop(latest)[1]]
        resident[adapter] = next_use
        heapq.heappush(latest, (-next_use, adapter))
    return hits / len(asked)


def _next_uses(asked: Sequence[int]) -> Iterator[int]:
    nexts: list[int] = []
    last: dict[int, int] = {}
    for turn in range(len(asked) - 1, -1, -1):
        nexts.append(last.get(asked[turn], NEVER))
        last[asked[turn]] = turn
    return reversed(nexts)
