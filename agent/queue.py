"""The requests that wait for the engine, and which of them is next. Pure: the clock is passed in.

1. Suspects (they ran when the engine died), by priority.
2. The priority with the highest level. Its level is its number, plus one for each `AGING_S` seconds, or `AGING_RUNS`
   mean service times where these are longer, that it has waited for a turn. So nothing starves: under an endless load
   of priority 9, priority 8 still has a turn every 2 of these spans, and priority 0 every 10.
3. In it, a request whose deadline is near (`NEAR_RUNS` mean service times), the nearest first. It goes on its client's
   account: a client that had `BORROW_TOKENS` more than its share waits for its turn all the same, so short deadlines
   buy no larger share.
4. Else the client that had the fewest tokens, in it the adapter that had the fewest, of that the oldest request
   (`turns.py`). What counts are the tokens that were asked for: the prompt's, estimated, and `max_tokens`.

A turn costs O(clients + log n), half a microsecond a client.
"""

from collections import Counter
from typing import Any

from agent.job import Job
from agent.ranking import Ranking
from agent.turns import Turns
from contract.requests import Request

AGING_S = 5.0
AGING_RUNS = 4
NEAR_RUNS = 2
BORROW_TOKENS = 1024
CHARS_PER_TOKEN = 4  # of English text, about
PRIORITIES = range(9, -1, -1)


def cost_of(request: Request, default_max_tokens: int) -> int:
    """The tokens that a request asks for, about."""
    prompt_chars = sum(len(text) for _, text in request.turns)
    return prompt_chars // CHARS_PER_TOKEN + (request.max_tokens or default_max_tokens)


class _Client:
    """What one client has waiting in one priority. Adapters are whatever `request.adapter` holds."""

    def __init__(self) -> None:
        self.turns = Turns[Any]()
        self.by_adapter: dict[Any, dict[Job, None]] = {}
        self.costs: dict[Job, int] = {}  # in order of arrival
        self.deadlines = Ranking[Job]()

    def add(self, job: Job, cost: int) -> None:
        adapter = job.request.adapter
        if adapter not in self.by_adapter:
            self.by_adapter[adapter] = {}
            self.turns.join(adapter)
        self.by_adapter[adapter][job] = None
        self.costs[job] = cost
        self.deadlines.put(job, job.deadline)

    def remove(self, job: Job) -> None:
        adapter = job.request.adapter
        del self.by_adapter[adapter][job]
        if not self.by_adapter[adapter]:
            del self.by_adapter[adapter]
            self.turns.leave(adapter)
        del self.costs[job]
        self.deadlines.drop(job)

    def first(self) -> Job:
        return next(iter(self.by_adapter[self.turns.first()]))


class _Line:
    """What waits in one priority; `since` is when it last had a turn, or became a line."""

    def __init__(self) -> None:
        self.since = 0.0
        self.turns = Turns[str]()
        self.clients: dict[str, _Client] = {}

    def add(self, job: Job, cost: int, now: float) -> None:
        if not self.clients:
            self.since = now
        if job.client not in self.clients:
            self.clients[job.client] = _Client()
            self.turns.join(job.client)
        self.clients[job.client].add(job, cost)

    def charge(self, job: Job) -> None:
        client = self.clients[job.client]
        self.turns.charge(job.client, client.costs[job])
        client.turns.charge(job.request.adapter, client.costs[job])

    def remove(self, job: Job) -> None:
        self.clients[job.client].remove(job)
        if not self.clients[job.client].costs:
            del self.clients[job.client]
            self.turns.leave(job.client)

    def first(self, near: float) -> Job:
        """Whose turn it is; a deadline before `near` is near."""
        earliest = (client.deadlines.first() for client in self.clients.values())
        urgent = [
            job for job in earliest if job and job.deadline < near and self.turns.lead(job.client) <= BORROW_TOKENS
        ]
        if urgent:
            return min(urgent, key=lambda job: job.deadline)
        return self.clients[self.turns.first() or ""].first()

    def num_ahead(self, job: Job) -> int:
        """How many of this line go first if nothing more comes and no deadline is near, whatever their adapters."""

        def turns(client: str) -> list[tuple[int, int, int]]:
            tag, order = self.turns.place(client)
            turns = []
            for number, (other, cost) in enumerate(self.clients[client].costs.items()):
                turns.append((tag, number, order))
                if other is job:
                    break
                tag += cost
            return turns

        own = turns(job.client)
        others = (turn for client in self.clients if client != job.client for turn in turns(client))
        return len(own) - 1 + sum(turn < own[-1] for turn in others)


class Queue:
    """All that waits."""

    def __init__(self, *, default_max_tokens: int) -> None:
        self._default_max_tokens = default_max_tokens
        self._suspects = Ranking[Job]()
        self._lines = {priority: _Line() for priority in PRIORITIES}
        self._jobs: set[Job] = set()
        self._of_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def of_client(self, client: str) -> int:
        """How many of a client's requests wait."""
        return self._of_client[client]

    def push(self, job: Job, now: float) -> None:
        """Adds a job."""
        if job.suspect:
            self._suspects.put(job, -job.request.priority)
        else:
            cost = cost_of(job.request, self._default_max_tokens)
            self._lines[job.request.priority].add(job, cost, now)
        self._jobs.add(job)
        self._of_client[job.client] += 1

    def peek(self, now: float, service_s: float, *, above: int = -1) -> Job | None:
        """The job whose turn it is, of those with a priority `above` a number, or None.

        `service_s` is how long a run takes, on average.
        """
        suspect = self._suspects.first()
        if suspect is not None and suspect.request.priority > above:
            return suspect
        lines = [(self._level(priority, now, service_s), priority) for priority in PRIORITIES if priority > above]
        level, priority = max(lines, default=(-1, -1))
        return self._lines[priority].first(now + NEAR_RUNS * service_s) if level >= 0 else None

    def take(self, job: Job, now: float) -> None:
        """Takes a waiting job out because it has its turn, which counts for its client, adapter and priority."""
        if job not in self._suspects:
            line = self._lines[job.request.priority]
            line.charge(job)
            line.since = now
        self.remove(job)

    def remove(self, job: Job) -> bool:
        """Takes a job out, wherever it stands; False when it was not waiting."""
        if job not in self._jobs:
            return False
        if job in self._suspects:
            self._suspects.drop(job)
        else:
            self._lines[job.request.priority].remove(job)
        self._jobs.discard(job)
        self._of_client[job.client] -= 1
        if not self._of_client[job.client]:
            del self._of_client[job.client]
        return True

    def num_ahead(self, job: Job, now: float, service_s: float) -> int:
        """About how many jobs have their turn before this one, as things are now; 0 when it does not wait."""
        if job not in self._jobs:
            return 0
        if job in self._suspects:
            own = self._suspects.place(job)
            return sum(self._suspects.place(other) < own for other in self._suspects)
        level = self._level(job.request.priority, now, service_s)
        ahead = len(self._suspects) + self._lines[job.request.priority].num_ahead(job)
        for priority, line in self._lines.items():
            if (self._level(priority, now, service_s), priority) > (level, job.request.priority):
                ahead += sum(len(client.costs) for client in line.clients.values())
        return ahead

    def jobs(self) -> list[Job]:
        """All waiting jobs, in no order."""
        return list(self._jobs)

    def _level(self, priority: int, now: float, service_s: float) -> int:
        line = self._lines[priority]
        if not line.clients:
            return -1
        return priority + int((now - line.since) / max(AGING_S, AGING_RUNS * service_s))
