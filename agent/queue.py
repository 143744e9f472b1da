"""The requests that wait for the engine."""

import heapq
from collections import Counter
from itertools import count

from agent.job import Job

SPARE = 64  # entries of jobs that wait no more; above as many and those that wait, the heap is cleared of them


class Queue:
    """Suspects first, then by priority, then in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, Job]] = []
        self._order = count()
        self._places: dict[Job, tuple[bool, int, int]] = {}  # of the jobs that wait
        self._of_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def of_client(self, client: str) -> int:
        """How many of a client's requests wait."""
        return self._of_client[client]

    def push(self, job: Job) -> None:
        """Adds a job."""
        place = (not job.suspect, -job.request.priority, next(self._order))
        heapq.heappush(self._heap, (*place, job))
        self._places[job] = place
        self._of_client[job.client] += 1

    def peek(self) -> Job | None:
        """The job whose turn it is, or None."""
        while self._heap and self._places.get(self._heap[0][-1]) != self._heap[0][:-1]:
            heapq.heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def remove(self, job: Job) -> bool:
        """Takes a job out, wherever it stands; False when it was not waiting."""
        if self._places.pop(job, None) is None:
            return False
        self._of_client[job.client] -= 1
        if not self._of_client[job.client]:
            del self._of_client[job.client]
        if len(self._heap) > 2 * len(self._places) + SPARE:  # jobs hold their prompts
            self._heap = [(*place, waiting) for waiting, place in self._places.items()]
            heapq.heapify(self._heap)
        return True

    def num_ahead(self, job: Job) -> int:
        """How many jobs have their turn before this one; 0 when it does not wait."""
        own = self._places.get(job)
        return 0 if own is None else sum(place < own for place in self._places.values())

    def jobs(self) -> list[Job]:
        """All waiting jobs, in no order."""
        return list(self._places)
