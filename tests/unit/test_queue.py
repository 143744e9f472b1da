"""The queue: order, places, counts, and that it forgets what does not wait."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.job import Job
from agent.queue import SPARE, Queue
from tests.fakes.scripted import Asker


def _job(name: str, *, priority: int = 4, client: str = "c", suspect: bool = False) -> Job:
    job = Asker().job(name, 0.0, client=client, priority=priority)
    job.suspect = suspect
    return job


def _order(queue: Queue) -> list[Job]:
    taken = []
    while job := queue.peek():
        queue.remove(job)
        taken.append(job)
    return taken


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30))
def test_suspects_go_first_then_priority_then_arrival(wanted: list[tuple[bool, int]]) -> None:
    """The order is the same as sorting by the three, and each place says how many go before."""
    queue = Queue()
    jobs = [_job(str(at), priority=priority, suspect=suspect) for at, (suspect, priority) in enumerate(wanted)]
    for job in jobs:
        queue.push(job)
    expected = sorted(jobs, key=lambda job: (not job.suspect, -job.request.priority, int(job.id)))
    assert [queue.num_ahead(job) for job in expected] == list(range(len(jobs)))
    assert _order(queue) == expected


@given(st.lists(st.tuples(st.sampled_from(["push", "remove", "peek"]), st.integers(0, 5)), max_size=80))
def test_the_counts_are_those_of_the_jobs_that_wait(steps: list[tuple[str, int]]) -> None:
    """Whatever is pushed, removed and pushed again, lengths, clients and the turn are those of a plain list."""
    jobs = [_job(str(n), client=f"c{n % 2}", priority=n % 3) for n in range(6)]
    queue, model = Queue(), list[Job]()
    for what, number in steps:
        job = jobs[number]
        if what == "push" and job not in model:
            job.suspect = not job.suspect  # as after a crash: it stands elsewhere than before
            queue.push(job)
            model.append(job)
        elif what == "remove":
            assert queue.remove(job) == (job in model)
            model = [other for other in model if other is not job]
        expected = sorted(model, key=lambda job: (not job.suspect, -job.request.priority, model.index(job)))
        assert queue.peek() is (expected[0] if expected else None)
        assert len(queue) == len(model)
        assert set(queue.jobs()) == set(model)
        for client in ("c0", "c1"):
            assert queue.of_client(client) == sum(other.client == client for other in model)
        assert [queue.num_ahead(other) for other in expected] == list(range(len(expected)))


def test_a_job_that_waits_no_more_is_let_go() -> None:
    """Under steady load of high priority the queue does not keep the prompts of low ones that have ended."""
    queue = Queue()
    first = _job("urgent", priority=9)
    queue.push(first)
    for number in range(1000):
        late = _job(str(number), priority=0)
        queue.push(late)
        queue.remove(late)
    held: list[Any] = queue._heap
    assert len(held) <= SPARE + 2
    assert queue.peek() is first


def test_a_job_that_does_not_wait_has_no_place() -> None:
    """Asking for it is no error: nothing is ahead, and there is nothing to take out."""
    queue = Queue()
    job = _job("a")
    assert (queue.num_ahead(job), queue.remove(job), queue.peek()) == (0, False, None)
