"""Whose turn it is among several that share the engine: whoever had the least so far. Pure.

This is start-time fair queueing (Goyal, Vin, Cheng, 1996), which serves like deficit round robin with the smallest
quantum; for language models it is known as the virtual token counter (Sheng et al., OSDI 2024). Each sharer has a tag,
the tokens it had. The lowest tag is next. Who comes (again) begins where those stand that waited all the time: neither
the time somebody was away nor the number of waiting requests buys anything.

That place is, as in WF2Q+ (Bennett and Zhang, 1997), the lowest tag, or further when equal shares of what was served
add up to more. So somebody for whom new ones step in all the time has a turn nevertheless.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from agent.ranking import SPARE, Ranking

K = TypeVar("K")


class Turns(Generic[K]):
    """The sharers that wait, and what the others had."""

    def __init__(self) -> None:
        self._waiting = Ranking[K]()
        self._tags: dict[K, int] = {}  # also of sharers that do not wait but had more than their share
        self._now = 0  # the tag that newcomers get

    def __contains__(self, sharer: object) -> bool:
        return sharer in self._waiting

    def __iter__(self) -> Iterator[K]:
        return iter(self._waiting)

    def join(self, sharer: K) -> None:
        """From now on this sharer waits."""
        tag = self._tags[sharer] = max(self._now, self._tags.get(sharer, 0))
        self._waiting.put(sharer, tag)

    def leave(self, sharer: K) -> None:
        """This sharer has nothing to wait for any more."""
        self._waiting.drop(sharer)
        if not self._waiting:  # there is nobody to be fair to
            self._tags.clear()
            self._now = 0
        elif len(self._tags) > 2 * len(self._waiting) + SPARE:
            self._tags = {key: tag for key, tag in self._tags.items() if tag > self._now or key in self._waiting}

    def first(self) -> K | None:
        """Whose turn it is, or None when nobody waits."""
        return self._waiting.first()

    def charge(self, sharer: K, tokens: int) -> None:
        """A waiting sharer gets something, in its turn or before."""
        first = self._waiting.first()
        lowest = self._tags[sharer if first is None else first]
        self._now = max(self._now + tokens // len(self._waiting), lowest)
        self._tags[sharer] += tokens
        self._waiting.put(sharer, self._tags[sharer])

    def lead(self, sharer: K) -> int:
        """How many tokens more than its share a waiting sharer had."""
        return self._tags[sharer] - self._now

    def place(self, sharer: K) -> tuple[int, int]:
        """Tag and order of a waiting sharer: the lower goes first."""
        return self._waiting.place(sharer)
