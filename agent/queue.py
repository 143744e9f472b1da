"""The requests that wait for the engine."""

import heapq
from collections import Counter
from itertools import count

from agent.job import Job


class Queue:
    """Suspects first, then by priority, then in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, Job]] = []
        self._order = count()
        self._waiting: set[Job] = set()
        self._of_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def of_client(self, client: str) -> int:
        """How many of a client's requests wait."""
        return self._of_client[client]

    def push(self, job: Job) -> None:
        """Adds a job."""
        heapq.heappush(self._heap, (not job.suspect, -job.request.priority, next(self._order), job))
        self._waiting.add(job)
        self._of_client[job.client] += 1

    def peek(self) -> Job | None:
        """The job whose turn it is, or None."""
        while self._heap and self._heap[0][-1] not in self._waiting:
            heapq.heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def remove(self, job: Job) -> bool:
        """Takes a job out, wherever it stands; False when it was not waiting."""
        if job not in self._waiting:
            return False
        self._waiting.discard(job)
        self._of_client[job.client] -= 1
        if not self._of_client[job.client]:
            del self._of_client[job.client]
        return True

    def num_ahead(self, job: Job) -> int:
        """How many jobs have their turn before this one; 0 when it does not wait."""
        places = {waiting: place for *place, waiting in self._heap if waiting in self._waiting}
        return sum(place < places[job] for place in places.values()) if job in places else 0

    def jobs(self) -> list[Job]:
        """All waiting jobs, in no order."""
        return list(self._waiting)
