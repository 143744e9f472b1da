"""The queue: order, shares, aging, deadlines, places, counts, and that it forgets what does not wait."""

import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.job import Job
from agent.queue import AGING_RUNS, AGING_S, BORROW_TOKENS, NEAR_RUNS, Queue, cost_of
from agent.ranking import SPARE
from contract.requests import Request
from tests.fakes.scripted import Asker

SERVICE_S = 1.0


def _queue() -> Queue:
    return Queue(default_max_tokens=100)


def _job(name: str, *, suspect: bool = False, ttl_s: float = 1e6, **fields: Any) -> Job:
    job = Asker().job(name, 0.0, ttl_s=ttl_s, **fields)
    job.suspect = suspect
    return job


def _order(queue: Queue, now: float = 0.0) -> list[Job]:
    taken = []
    while job := queue.peek(now, SERVICE_S):
        queue.take(job, now)
        taken.append(job)
    return taken


def _jain(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30))
def test_of_one_client_suspects_go_first_then_priority_then_arrival(wanted: list[tuple[bool, int]]) -> None:
    """The order is the same as sorting by the three, and each place says how many go before."""
    queue = _queue()
    jobs = [_job(str(at), priority=priority, suspect=suspect) for at, (suspect, priority) in enumerate(wanted)]
    for job in jobs:
        queue.push(job, 0.0)
    expected = sorted(jobs, key=lambda job: (not job.suspect, -job.request.priority, int(job.id)))
    assert [queue.num_ahead(job, 0.0, SERVICE_S) for job in expected] == list(range(len(jobs)))
    assert _order(queue) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "remove", "take", "peek"]),
            st.integers(0, 11),
            st.floats(0, 30),
            st.integers(-1, 9),
        ),
        max_size=120,
    )
)
def test_nothing_is_lost_or_doubled(steps: list[tuple[str, int, float, int]]) -> None:
    """Whatever is pushed, removed, taken and pushed again at whatever time, the counts are those of a plain list."""
    jobs = [
        _job(str(n), client=f"c{n % 3}", priority=(n * 7) % 10, adapter="ab"[n % 2], ttl_s=n * 20, max_tokens=1 + n * n)
        for n in range(12)
    ]
    queue, model, now = _queue(), list[Job](), 0.0
    for what, number, pause_s, above in steps:
        now += pause_s
        job = jobs[number]
        if what == "push" and job not in model:
            job.suspect = not job.suspect  # as after a crash: it stands elsewhere than before
            queue.push(job, now)
            model.append(job)
        elif what == "remove":
            assert queue.remove(job) == (job in model)
            model = [other for other in model if other is not job]
        elif what == "take" and (turn := queue.peek(now, SERVICE_S, above=above)):
            queue.take(turn, now)
            model.remove(turn)
        allowed = [other for other in model if other.request.priority > above]
        head = queue.peek(now, SERVICE_S, above=above)
        assert (head in allowed) if allowed else (head is None)
        assert head is queue.peek(now, SERVICE_S, above=above)  # looking changes nothing
        assert len(queue) == len(model)
        assert set(queue.jobs()) == set(model)
        for client in ("c0", "c1", "c2"):
            assert queue.of_client(client) == sum(other.client == client for other in model)
        assert all(0 <= queue.num_ahead(other, now, SERVICE_S) < len(model) for other in model)
    assert sorted(job.id for job in _order(queue, now)) == sorted(job.id for job in model)


@settings(deadline=None)
@given(
    st.lists(st.integers(20, 400), min_size=2, max_size=8),
    st.lists(st.sampled_from([16, 64, 256, 1024]), min_size=8, max_size=8),
)
def test_clients_get_the_same_share_however_many_requests_they_have(waiting: list[int], sizes: list[int]) -> None:
    """While all have something waiting, Jain's index of the tokens they got is at least 0.95."""
    queue = _queue()
    for client, number in enumerate(waiting):
        for at in range(number):
            queue.push(_job(f"{at}", client=f"c{client}", max_tokens=sizes[client]), 0.0)
    got = Counter[str]({f"c{client}": 0 for client in range(len(waiting))})
    left = Counter({f"c{client}": number for client, number in enumerate(waiting)})
    checked = 0
    while all(left.values()):
        job = queue.peek(0.0, SERVICE_S)
        assert job is not None
        queue.take(job, 0.0)
        got[job.client] += cost_of(job.request, 100)
        left[job.client] -= 1
        dearest = max(sizes[: len(waiting)])
        assert max(got.values()) - min(got.values()) <= 2 * dearest
        if min(got.values()) >= 8 * dearest:
            checked += 1
            assert _jain([float(got[name]) for name in got]) >= 0.95
    assert checked or min(n * size for n, size in zip(waiting, sizes, strict=False)) < 10 * max(sizes)


def test_ten_clients_of_very_different_greed_get_the_same() -> None:
    """One with 1,000 waiting requests and nine with 1 to 60 have the same share, and those with few are done soon."""
    queue = _queue()
    numbers = {"greedy": 1000} | {f"c{number}": 1 + 6 * number for number in range(10)}
    for client, number in numbers.items():
        for at in range(number):
            queue.push(_job(str(at), client=client), 0.0)
    order = _order(queue)
    assert len(order) == sum(numbers.values())
    rounds = order[: 7 * len(numbers) - 7]  # while all but c0 wait
    shares = Counter(job.client for job in rounds)
    assert _jain([float(shares[client]) for client in numbers if client != "c0"]) >= 0.95
    last = {job.client: place for place, job in enumerate(order)}
    assert [client for client, _ in sorted(last.items(), key=lambda item: item[1])] == [
        *sorted((c for c in numbers if c != "greedy"), key=numbers.__getitem__), "greedy",
    ]  # fmt: skip


def test_adapters_of_a_client_share_its_turns() -> None:
    """A hundred requests for one adapter do not hold up the one for another, nor the base model's."""
    queue = _queue()
    for at in range(100):
        queue.push(_job(str(at), adapter="a"), 0.0)
    for adapter in ("b", None):
        queue.push(_job("late", adapter=adapter), 0.0)
    assert {job.request.adapter for job in _order(queue)[:4]} == {"a", "b", None}


@pytest.mark.parametrize("priority", range(9))
def test_low_priority_never_starves(priority: int) -> None:
    """Under an endless load of priority 9, each line has its turn within its distance in levels, and one run."""
    queue = _queue()
    for at in range(5):
        queue.push(_job(str(at), priority=priority), 0.0)
    now, turns = 0.0, list[float]()
    while len(turns) < 5:
        queue.push(_job(f"urgent {now}", priority=9), now)
        job = queue.peek(now, SERVICE_S)
        assert job is not None
        queue.take(job, now)
        if job.request.priority == priority:
            turns.append(now)
        now += SERVICE_S
    span = max(AGING_S, AGING_RUNS * SERVICE_S)
    gaps = [after - before for before, after in zip([0.0, *turns], turns, strict=False)]
    assert max(gaps) <= (10 - priority) * span + SERVICE_S
    assert min(gaps[1:]) > (9 - priority) * span  # and priority means something all the same


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 2000)), min_size=1, max_size=25))
def test_every_request_has_its_turn_whatever_comes_after_it(wanted: list[tuple[int, int, int]]) -> None:
    """While a new client's dear request takes each place that gets free, of any priority, all of the first ones run."""
    queue = _queue()
    left = set()
    for client, priority, max_tokens in wanted:
        job = _job("old", client=f"c{client}", priority=priority, max_tokens=max_tokens)
        queue.push(job, 0.0)
        left.add(job)
    for step in range(4000):
        if not left:
            return
        queue.push(_job("new", client=f"n{step}", priority=(step * 7) % 10, max_tokens=2000), float(step))
        job_now = queue.peek(float(step), SERVICE_S)
        assert job_now is not None
        queue.take(job_now, float(step))
        left.discard(job_now)
    raise AssertionError(f"{len(left)} did not run")


def test_a_near_deadline_goes_before_its_turn() -> None:
    """Within its priority, and only when it is near: two mean runs away."""
    queue = _queue()
    queue.push(_job("first", client="a"), 0.0)
    queue.push(_job("near", client="b", ttl_s=1.9), 0.0)
    queue.push(_job("nearer", client="c", ttl_s=1.8), 0.0)
    queue.push(_job("high", priority=5), 0.0)
    queue.push(_job("far", client="d", ttl_s=2.1), 0.0)
    assert [job.id for job in _order(queue)] == ["high", "nearer", "near", "first", "far"]
    queue.push(_job("first"), 0.0)
    queue.push(_job("later", ttl_s=NEAR_RUNS * 30.0 - 1), 0.0)
    assert queue.peek(0.0, 1.0) is not queue.peek(0.0, 30.0)  # near is measured in runs


def test_short_deadlines_buy_no_larger_share() -> None:
    """A client whose deadlines are all near borrows a little and then gets its share like the others."""
    queue = _queue()
    for at in range(200):
        queue.push(_job(str(at), client="pushy", ttl_s=1.0), 0.0)
        queue.push(_job(str(at), client="calm"), 0.0)
    got = defaultdict[str, list[int]](lambda: [0])
    for job in _order(queue)[:200]:
        for client in ("pushy", "calm"):
            got[client].append(got[client][-1] + (cost_of(job.request, 100) if job.client == client else 0))
    leads = [pushy - (pushy + calm) / 2 for pushy, calm in zip(got["pushy"], got["calm"], strict=True)]
    assert 0 < max(leads) <= BORROW_TOKENS + 200


def test_coming_and_going_buys_nothing() -> None:
    """Who asks the next thing when the last was taken gets no more tokens than who has all waiting at once."""
    queue = _queue()
    for at in range(300):
        queue.push(_job(str(at), client="steady"), 0.0)
    got = Counter[str]()
    for _ in range(60):
        if not queue.of_client("nimble"):
            queue.push(_job("one", client="nimble", max_tokens=400), 0.0)
        job = queue.peek(0.0, SERVICE_S)
        assert job is not None
        queue.take(job, 0.0)
        got[job.client] += cost_of(job.request, 100)
    assert _jain([float(got["steady"]), float(got["nimble"])]) >= 0.95


def test_the_cost_is_what_was_asked_for() -> None:
    """Prompt and answer; the node's default where the request does not say."""
    assert cost_of(Request(prompt="word " * 80, max_tokens=7), 100) == 107
    assert cost_of(Request(prompt="word"), 100) == 101


def test_a_job_that_waits_no_more_is_let_go() -> None:
    """Under steady load of high priority the queue does not keep the prompts of low ones that have ended."""
    queue = _queue()
    first = _job("old", priority=0)
    queue.push(first, 0.0)
    for number in range(1000):
        late = _job(str(number), priority=0, client=f"c{number % 7}")
        queue.push(late, 0.0)
        queue.remove(late)
    line = queue._lines[0]
    assert line.clients.keys() == {"c"}
    held: list[Any] = [line.turns._waiting._heap, line.turns._tags, line.clients["c"].deadlines._heap]
    assert max(map(len, held)) <= SPARE + 7
    assert queue.peek(0.0, SERVICE_S) is first


def test_a_job_that_does_not_wait_has_no_place() -> None:
    """Asking for it is no error: nothing is ahead, and there is nothing to take out."""
    queue = _queue()
    job = _job("a")
    assert (queue.num_ahead(job, 0.0, 1.0), queue.remove(job), queue.peek(0.0, 1.0)) == (0, False, None)


@pytest.mark.parametrize("clients", [1, 100, 10_000])
def test_ten_thousand_waiting_are_no_burden(clients: int) -> None:
    """A turn takes milliseconds at most, with one client as with ten thousand."""
    queue = _queue()
    jobs = [_job(str(n), client=f"c{n % clients}", adapter=f"a{n % 3}", priority=n % 10) for n in range(10_000)]
    for job in jobs:
        queue.push(job, 0.0)
    started = time.process_time()
    for _ in range(50):
        turn = queue.peek(0.0, SERVICE_S)
        assert turn is not None
        queue.take(turn, 0.0)
    assert (time.process_time() - started) / 50 < 0.02
