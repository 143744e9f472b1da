"""Things in order of a rank that may change. Pure."""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Any, Generic, TypeVar

K = TypeVar("K")

SPARE = 64  # entries that hold no more; above as many and those that do, the heap is cleared of them


class Ranking(Generic[K]):
    """The thing of the lowest rank in O(log n). Among equals the one that got its rank first."""

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, K]] = []
        self._places: dict[K, tuple[Any, int]] = {}
        self._order = count()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[K]:
        return iter(self._places)

    def __contains__(self, thing: object) -> bool:
        return thing in self._places

    def put(self, thing: K, rank: Any) -> None:
        """Adds a thing, or gives it another rank. All ranks must compare with each other."""
        place = self._places[thing] = (rank, next(self._order))
        heapq.heappush(self._heap, (*place, thing))
        self._clear()

    def drop(self, thing: K) -> None:
        """Takes a thing out."""
        del self._places[thing]
        self._clear()

    def first(self) -> K | None:
        """The thing of the lowest rank, or None."""
        while self._heap and self._places.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def place(self, thing: K) -> tuple[Any, int]:
        """What things are ordered by: rank, and how many ranks had been given before."""
        return self._places[thing]

    def _clear(self) -> None:
        if len(self._heap) > 2 * len(self._places) + SPARE:  # jobs hold their prompts
            self._heap = [(*place, thing) for thing, place in self._places.items()]
            heapq.heapify(self._heap)
