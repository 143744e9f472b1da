"""From a taken request to its final: order, admission, deadlines, crashes. The engine is scripted."""

import asyncio
import random
import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from agent.answering import Answering
from agent.config import Limits, Sampling
from agent.engine import frames
from agent.engine.death import Death
from agent.engine.supervisor import State
from agent.models import Manner
from agent.quarantine import Quarantine
from agent.store.adapter_entries import Entry
from contract.answers import Failure, Timings
from contract.errors import Refused
from contract.requests import Request
from contract.status import Status
from tests.fakes.scripted import Asker, ScriptedEngine, done


class Bench:
    """An `Answering` with a scripted engine that is ready."""

    def __init__(self, parallel: int = 2, **limits: int) -> None:
        self.engine, self.asker = ScriptedEngine(), Asker()
        self.adapters: dict[str, Entry] = {}
        self.answering = Answering(
            node="n1",
            model="m@1",
            parallel=parallel,
            limits=lambda: Limits(**limits),
            sampling=Sampling(),
            manner=Manner(),
            find_adapter=self._find_adapter,
            quarantine=Quarantine(),
            send=self.engine,
        )
        self.answering.on_engine(State.READY)

    def put_adapter(self, name: str, sha256: str) -> None:
        """Makes an adapter known, in place of another one of this name."""
        self.adapters[name] = Entry(
            name=name, sha256=sha256, base_sha256="b" * 64, bytes=1, rank=8, activation="prompt", scores={}
        )

    def ask(self, name: str, *, client: str = "c", ttl_s: float = 60, priority: int = 4, **fields: Any) -> None:
        """Submits a request."""
        now = time.monotonic()
        self.answering.submit(self.asker.job(name, now, client=client, ttl_s=ttl_s, priority=priority, **fields))

    def _find_adapter(self, reference: str) -> Entry:
        if reference not in self.adapters:
            raise Refused(Status.NOT_FOUND, "adapter", f"cannot find adapter {reference!r}")
        return self.adapters[reference]

    def running(self) -> list[str]:
        """Names of what the engine was told to run, in order."""
        return [run.turns[0][1] for run in self.engine.runs]

    def number(self, name: str) -> int:
        """The engine's number of the latest run of a request."""
        return next(run.job for run in reversed(self.engine.runs) if run.turns[0][1] == name)

    def die(self, death: Death = Death.CRASH) -> None:
        """The engine dies and comes back."""
        self.answering.on_engine(State.STARTING)
        self.answering.on_lost(death)
        self.answering.on_engine(State.READY)


async def turn() -> None:
    """Lets everything that is due in the event loop happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """Waits for something that a timer brings."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene in an event loop of its own."""

    async def run() -> None:
        await scene()

    asyncio.run(run())


def test_requests_run_by_priority_and_then_in_order() -> None:
    """Of what waits, the highest priority goes first, and among equals the oldest."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        for name, priority in (("a", 9), ("b", 4), ("c", 9), ("d", 4)):
            bench.ask(name, priority=priority)
        for _ in range(4):
            bench.answering.on_frame(done(bench.engine.runs[-1].job))
            await turn()
        assert bench.running() == ["a", "c", "b", "d"]

    play(scene)


def test_a_higher_priority_takes_the_place_of_a_lower_one_that_runs() -> None:
    """It goes to the engine though that is full, if one that goes on there is below it; at most twice `parallel`."""

    async def scene() -> None:
        bench = Bench(parallel=2)
        for name, priority in (("a", 4), ("b", 6), ("same", 4), ("c", 5)):
            bench.ask(name, priority=priority)
        assert bench.running() == ["a", "b", "c"]  # `a` pauses; `same` is above none
        bench.ask("d", priority=5)
        bench.ask("below", priority=3)
        assert bench.running() == ["a", "b", "c"]  # b and c go on, and none is below d
        bench.ask("e", priority=9)
        assert bench.running() == ["a", "b", "c", "e"]
        bench.ask("f", priority=9)
        assert bench.running() == ["a", "b", "c", "e"]  # b would give way, but four are enough
        assert [run.priority for run in bench.engine.runs] == [4, 6, 5, 9]
        bench.answering.on_frame(done(bench.number("a")))
        await turn()
        assert bench.running()[4:] == ["f"]

    play(scene)


def test_a_suspect_is_not_preempted_and_preempts_nobody() -> None:
    """What runs alone after a crash stays alone, whatever comes."""

    async def scene() -> None:
        bench = Bench(parallel=2)
        bench.ask("low", priority=1)
        bench.die()
        bench.ask("high", priority=9)
        assert bench.running() == ["low", "low"]
        bench.answering.on_frame(done(bench.number("low")))
        await turn()
        assert bench.running() == ["low", "low", "high"]

    play(scene)


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    """Over the node's or the client's limit a request gets 429 and a positive retry_after_ms."""

    async def scene() -> None:
        bench = Bench(parallel=1, queue=3, client_queue=2)
        bench.ask("running")
        for name in ("w1", "w2"):
            bench.answering.check_admission("c")
            bench.ask(name)
        with pytest.raises(Refused) as of_client:
            bench.answering.check_admission("c")
        bench.answering.check_admission("other")
        bench.ask("w3", client="other")
        with pytest.raises(Refused) as of_node:
            bench.answering.check_admission("third")
        assert [(no.value.status, no.value.code) for no in (of_client, of_node)] == [
            (429, "client_queue"),
            (429, "queue"),
        ]
        assert all((no.value.retry_after_ms or 0) > 0 for no in (of_client, of_node))

    play(scene)


def test_without_an_engine_requests_are_refused_at_once() -> None:
    """A broken engine ends what waits with 503 and lets nothing in."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.ask("running")
        bench.ask("waiting")
        bench.answering.on_engine(State.BROKEN)
        await turn()
        assert bench.asker.statuses()["waiting"] == [503]
        with pytest.raises(Refused) as refused:
            bench.answering.check_admission("c")
        assert refused.value.status == 503

    play(scene)


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    """At its deadline a waiting request gets 408 at once; a running one is stopped and keeps its text."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.ask("runs", ttl_s=0.05)
        bench.ask("waits", ttl_s=0.05)
        await until(lambda: bool(bench.engine.cancels and bench.asker.finals["waits"]))
        assert bench.engine.cancels == [frames.Cancel(bench.number("runs"), "deadline")]
        bench.answering.on_frame(done(bench.number("runs"), "deadline", "half"))
        await turn()
        assert bench.asker.statuses() == {"runs": [408], "waits": [408]}
        assert bench.asker.finals["runs"][0].text == "half"

    play(scene)


def test_an_engine_that_does_not_stop_cannot_hold_an_answer_back() -> None:
    """When a cancelled job goes on, its 499 goes out without the engine, once."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("stuck", time.monotonic())
        bench.answering.submit(job)
        bench.answering.cancel(job)
        await until(lambda: bool(bench.asker.finals["stuck"]))
        bench.answering.on_frame(done(bench.number("stuck"), "cancelled"))
        await turn()
        assert bench.asker.statuses() == {"stuck": [499]}

    play(scene)


def test_only_the_guilty_fails_when_the_engine_dies_twice() -> None:
    """What ran at a crash runs again alone; who dies again gets 500, the others are answered."""

    async def scene() -> None:
        bench = Bench(parallel=3)
        for name in ("good", "evil", "fine"):
            bench.ask(name)
        bench.die()
        for _ in range(3):
            await turn()
            (name,) = bench.running()[-1:]
            assert bench.answering.num_running == 1
            if name == "evil":
                bench.die()
            else:
                bench.answering.on_frame(done(bench.number(name)))
        await turn()
        assert bench.asker.statuses() == {"good": [200], "evil": [500], "fine": [200]}

    play(scene)


def test_what_killed_two_engines_is_not_run_a_third_time() -> None:
    """The same question again is refused before it reaches the engine, also when it waited already; others run."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        for name in ("evil", "again", "good"):
            job = bench.asker.job(name, time.monotonic())
            job.request = msgspec.structs.replace(job.request, prompt=name.replace("again", "evil"))
            bench.answering.submit(job)
        bench.die()
        bench.die()
        await turn()
        assert bench.running() == ["evil", "evil", "good"]
        assert bench.asker.statuses() == {"evil": [500], "again": [500], "good": []}
        errors = {name: bench.asker.finals[name][0].error for name in ("evil", "again")}
        assert [error.code for error in errors.values() if isinstance(error, Failure)] == [
            "engine_failed", "quarantined",
        ]  # fmt: skip

    play(scene)


@pytest.mark.parametrize(
    ("rounds", "deaths"),
    [(3, (Death.KILLED, Death.KILLED)), (1, (Death.KILLED, Death.CRASH)), (3, (Death.CRASH, None))],
)
def test_one_fault_is_not_enough_for_quarantine(rounds: int, deaths: tuple[Death | None, ...]) -> None:
    """Engines that were killed from outside are not held against a request, and an answer clears it."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        for _ in range(rounds):
            bench.ask("a")
            for death in deaths:
                if death:
                    bench.die(death)
                else:
                    bench.answering.on_frame(done(bench.number("a")))
            await turn()
        assert len(bench.engine.runs) == 2 * rounds
        assert bench.answering._quarantine.items == []

    play(scene)


def test_a_hang_counts_though_its_request_has_expired() -> None:
    """Who was answered 408 because the engine hung on it is not run a third time either."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        for _ in range(2):
            bench.ask("a", ttl_s=0.01)
            await until(lambda: bool(bench.asker.finals["a"]))
            bench.die(Death.STALL)
        bench.ask("a")
        await turn()
        assert len(bench.engine.runs) == 2
        (final,) = bench.asker.finals["a"]
        assert isinstance(final.error, Failure)
        assert (final.status, final.error.code) == (500, "quarantined")

    play(scene)


def test_a_second_run_goes_on_behind_the_tokens_that_were_sent() -> None:
    """After a crash the engine gets the tokens so far, and deltas go on without a gap or a repetition."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("story")
        bench.answering.on_frame(frames.Tokens(bench.number("story"), [5, 6], "Once "))
        bench.die()
        assert bench.engine.runs[-1].resume == [5, 6]
        bench.answering.on_frame(frames.Tokens(bench.number("story"), [7], "upon"))
        bench.answering.on_frame(done(bench.number("story"), text="Once upon"))
        await turn()
        deltas = bench.asker.deltas["story"]
        assert [delta.seq for delta in deltas] == list(range(1, len(deltas) + 1))
        assert "".join(delta.text for delta in deltas) == "Once upon"
        assert bench.asker.finals["story"][0].last_seq == len(deltas)

    play(scene)


def test_frames_of_a_dead_engine_are_ignored() -> None:
    """What an earlier process still says about a job does not reach the job's second run."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        old = bench.number("a")
        bench.die()
        bench.answering.on_frame(done(old, text="stale"))
        bench.answering.on_frame(done(bench.number("a"), text="new"))
        await turn()
        assert [final.text for final in bench.asker.finals["a"]] == ["new"]

    play(scene)


def test_deltas_are_joined() -> None:
    """The first text goes at once, then eight tokens together, and the rest with the end."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        for number in range(20):
            bench.answering.on_frame(frames.Tokens(bench.number("a"), [number], "x"))
        bench.answering.on_frame(done(bench.number("a"), text="x" * 20))
        await turn()
        assert [(delta.seq, delta.n) for delta in bench.asker.deltas["a"]] == [(1, 1), (2, 8), (3, 8), (4, 3)]

    play(scene)


def test_text_that_is_held_goes_out_by_itself() -> None:
    """A slow model's tokens do not wait for eight of them."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        for number in range(3):
            bench.answering.on_frame(frames.Tokens(bench.number("a"), [number], "x"))
        await until(lambda: len(bench.asker.deltas["a"]) == 2)
        assert bench.asker.deltas["a"][1].n == 2

    play(scene)


def test_an_answer_that_does_not_fit_its_schema_is_422_with_its_text() -> None:
    """It never falls open."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        bench.answering.on_frame(done(bench.number("a"), "length", '{"a":', fits=False))
        await turn()
        (final,) = bench.asker.finals["a"]
        assert (final.status, final.text) == (422, '{"a":')

    play(scene)


@pytest.mark.parametrize("seed", range(60))
def test_every_request_ends_exactly_once(seed: int) -> None:
    """Whatever happens in whatever order, each request gets one final, and nothing is left behind."""

    async def scene() -> None:
        random_ = random.Random(seed)
        bench = Bench(parallel=random_.randint(1, 4))
        jobs = []
        for step in range(60):
            match random_.choice(("ask", "ask", "tokens", "done", "die", "cancel", "reject", "turn")):
                case "ask":
                    jobs.append(bench.asker.job(f"r{step}", time.monotonic(), priority=random_.randint(0, 9)))
                    bench.answering.submit(jobs[-1])
                case "cancel" if jobs:
                    bench.answering.cancel(random_.choice(jobs))
                case "die":
                    bench.die()
                case "turn":
                    await turn()
                case what if bench.engine.runs:
                    number = random_.choice(bench.engine.runs).job
                    frame = {
                        "tokens": frames.Tokens(number, [1], "x"),
                        "reject": frames.Rejected(job=number, status=413, code="messages", message="cannot"),
                    }.get(what, done(number))
                    bench.answering.on_frame(frame)  # type: ignore[arg-type]  # one of the three
        for _ in range(len(jobs) + 1):
            for run in list(bench.engine.runs):
                bench.answering.on_frame(done(run.job))
            await turn()
        assert {len(statuses) for statuses in bench.asker.statuses().values()} <= {1}
        assert (bench.answering.num_running, bench.answering.num_waiting) == (0, 0)

    play(scene)


def test_what_was_cancelled_does_not_run_again_after_a_crash() -> None:
    """An engine that dies while it stops a job leaves a 499, and no second run that nobody waits for."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("a", time.monotonic())
        bench.answering.submit(job)
        bench.answering.cancel(job)
        bench.die()
        await turn()
        assert bench.asker.statuses() == {"a": [499]}
        assert bench.running() == ["a"]

    play(scene)


def test_what_has_expired_does_not_run_again_after_a_crash() -> None:
    """An engine that dies while it stops an expired job leaves a 408 at once."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a", ttl_s=0.01)
        await until(lambda: bool(bench.engine.cancels))
        bench.die()
        await turn()
        assert bench.asker.statuses() == {"a": [408]}
        assert bench.running() == ["a"]

    play(scene)


def test_nothing_runs_on_an_engine_that_was_lost() -> None:
    """Until a new engine is ready nothing is sent, whether the loss or the state is reported first."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        bench.answering.on_lost(Death.CRASH)
        bench.ask("b")
        assert bench.running() == ["a"]
        bench.answering.on_engine(State.STARTING)
        assert bench.running() == ["a"]
        bench.answering.on_engine(State.READY)
        assert bench.running() == ["a", "a"]

    play(scene)


def test_draining_takes_nothing_starts_nothing_and_waits_for_what_runs() -> None:
    """While it drains, requests get 503, waiting ones stay for the next start, and running ones may end."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.ask("runs")
        bench.ask("waits")
        drain = asyncio.create_task(bench.answering.drain(20))
        await turn()
        with pytest.raises(Refused) as refused:
            bench.answering.check_admission("c")
        assert (refused.value.status, refused.value.code) == (503, "draining")
        assert not drain.done()
        bench.answering.on_frame(done(bench.number("runs")))
        await drain
        assert bench.asker.statuses() == {"runs": [200], "waits": []}
        assert bench.running() == ["runs"]

    play(scene)


def test_draining_does_not_wait_for_an_engine_that_died() -> None:
    """When the engine dies meanwhile, nothing runs any more, and the stop goes on at once."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        drain = asyncio.create_task(bench.answering.drain(20))
        await turn()
        bench.die()
        async with asyncio.timeout(2):
            await drain
        assert bench.asker.statuses() == {"a": []}

    play(scene)


def test_draining_has_an_end() -> None:
    """A job that goes on beyond the time for draining does not hold the stop up."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("endless")
        await bench.answering.drain(0.01)
        assert bench.answering.num_running == 1

    play(scene)


def test_a_final_that_cannot_be_delivered_harms_no_other() -> None:
    """An error while a final is handed on is logged, and draining does not wait for it."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("a", time.monotonic())

        async def fail(_: object) -> None:
            raise RuntimeError("no disk")

        job.on_final = fail
        bench.answering.submit(job)
        bench.ask("b")
        for run in list(bench.engine.runs):
            bench.answering.on_frame(done(run.job))
        await bench.answering.drain(5)
        assert bench.asker.statuses()["b"] == [200]

    play(scene)


def test_an_error_keeps_the_text_that_there_was() -> None:
    """A job whose engine died twice, or that cannot be stopped, ends with the text it had sent."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        for text in ("Once ", "upon"):
            bench.answering.on_frame(frames.Tokens(bench.number("a"), [1], text))
            bench.die()
        await turn()
        (final,) = bench.asker.finals["a"]
        assert (final.status, final.text) == (500, "Once upon")
        assert "".join(delta.text for delta in bench.asker.deltas["a"]) == "Once upon"
        assert final.last_seq == len(bench.asker.deltas["a"])

    play(scene)


def test_an_error_before_any_text_has_none() -> None:
    """What never ran has no text, not an empty one."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.ask("runs")
        bench.ask("waits", ttl_s=0)
        await turn()
        assert bench.asker.finals["waits"][0].text is UNSET

    play(scene)


def test_a_request_that_does_not_stream_gets_no_deltas() -> None:
    """Its text comes with the final only."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("a", time.monotonic())
        job.request = msgspec.structs.replace(job.request, stream=False)
        bench.answering.submit(job)
        for number in range(20):
            bench.answering.on_frame(frames.Tokens(bench.number("a"), [number], "x"))
        bench.answering.on_frame(done(bench.number("a"), text="x" * 20))
        await turn()
        assert (bench.asker.deltas["a"], bench.asker.finals["a"][0].last_seq) == ([], 0)

    play(scene)


def test_text_that_an_engine_holds_back_makes_no_empty_delta() -> None:
    """Tokens without text, which may begin a stop string, wait for their text and count with it."""

    async def scene() -> None:
        bench = Bench()
        bench.ask("a")
        for number in range(9):
            bench.answering.on_frame(frames.Tokens(bench.number("a"), [number], ""))
        assert bench.asker.deltas["a"] == []
        bench.answering.on_frame(frames.Tokens(bench.number("a"), [9], "late"))
        assert [(delta.seq, delta.text, delta.n) for delta in bench.asker.deltas["a"]] == [(1, "late", 10)]

    play(scene)


def test_the_settings_of_a_request_reach_the_engine() -> None:
    """What it says goes to the engine; what it leaves out is the node's default."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("a", time.monotonic(), ttl_s=10)
        job.request = msgspec.structs.replace(job.request, temperature=0, top_k=0, max_tokens=7, stop="x", seed=5)
        bench.answering.submit(job)
        bench.ask("b")
        said, default = bench.engine.runs
        assert (said.sampling.temperature, said.sampling.top_k, said.sampling.seed) == (0, 0, 5)
        assert (said.max_tokens, said.stops) == (7, ["x"])
        assert 9000 < said.deadline_ms <= 10_000
        assert (default.sampling.temperature, default.sampling.top_p) == (Sampling().temperature, Sampling().top_p)
        assert (default.max_tokens, default.stops, default.output_schema) == (Sampling().max_tokens, [], None)

    play(scene)


def test_who_is_accepted_hears_how_many_are_before_it() -> None:
    """A running request has none before it; a waiting one those that go first."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        jobs = [bench.asker.job(name, time.monotonic(), priority=p) for name, p in (("a", 9), ("b", 4), ("c", 9))]
        for job in jobs:
            bench.answering.submit(job)
        assert [bench.answering.accepted(job).queue for job in jobs] == [0, 1, 0]

    play(scene)


def test_times_and_status_counts_are_kept() -> None:
    """A final says when it waited and began; the numbers of ended requests are counted by status."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.ask("a")
        bench.ask("b", ttl_s=0)
        await turn()
        bench.answering.on_frame(frames.Tokens(bench.number("a"), [1], "x"))
        bench.answering.on_frame(done(bench.number("a"), text="x"))
        await turn()
        timings = bench.asker.finals["a"][0].timings
        assert isinstance(timings, Timings)
        assert timings.first_token_ms is not None
        assert 0 <= timings.queued_ms <= timings.first_token_ms <= timings.total_ms
        waited = bench.asker.finals["b"][0].timings
        assert isinstance(waited, Timings)
        assert waited.first_token_ms is None
        assert bench.answering.num_ended == {200: 1, 408: 1}

    play(scene)


def test_an_adapter_goes_to_the_engine_by_its_digest() -> None:
    """The final says which version has answered; a request without one says that it had none."""

    async def scene() -> None:
        bench = Bench()
        bench.put_adapter("home", "ab" * 32)
        bench.ask("a", adapter="home", activation="user")
        bench.ask("b")
        assert [(run.adapter, run.activation) for run in bench.engine.runs] == [("ab" * 32, "user"), (None, None)]
        assert bench.answering.adapters_in_use == {"ab" * 32}
        for run in bench.engine.runs:
            bench.answering.on_frame(done(run.job))
        await turn()
        assert bench.asker.finals["a"][0].adapter == "home@abababababab"
        assert bench.asker.finals["b"][0].adapter is None
        assert bench.answering.adapters_in_use == set()

    play(scene)


def test_an_adapter_that_was_replaced_while_a_request_waited() -> None:
    """The version that is there when it runs answers it, and the final names that one."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.put_adapter("home", "ab" * 32)
        bench.ask("first", adapter="home")
        bench.ask("second", adapter="home")
        bench.put_adapter("home", "cd" * 32)
        bench.answering.on_frame(done(bench.number("first")))
        await turn()
        bench.answering.on_frame(done(bench.number("second")))
        await turn()
        labels = [bench.asker.finals[name][0].adapter for name in ("first", "second")]
        assert labels == ["home@abababababab", "home@cdcdcdcdcdcd"]

    play(scene)


def test_what_waiting_requests_want_is_known_in_the_order_of_their_turns() -> None:
    """Urgent ones first; what is gone or not asked for is not among them."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        for number, name in enumerate("abc"):
            bench.put_adapter(name, f"{number}" * 64)
        for name in ("runs", "too"):
            bench.ask(name, priority=9)
        for name, adapter, priority in (("1", "a", 4), ("2", "b", 4), ("3", "c", 9), ("4", "a", 4), ("5", None, 9)):
            bench.ask(name, adapter=adapter, priority=priority)
        del bench.adapters["b"]
        places = bench.answering.adapters_waiting
        assert sorted(places, key=lambda sha256: places[sha256]) == ["2" * 64, "0" * 64]

    play(scene)


def test_what_runs_again_keeps_its_version_of_the_adapter() -> None:
    """A request that lost its engine goes on with the adapter that it began with, and keeps it in use meanwhile."""

    async def scene() -> None:
        bench = Bench()
        bench.put_adapter("home", "ab" * 32)
        bench.ask("lost", adapter="home")
        bench.put_adapter("home", "cd" * 32)
        bench.answering.on_engine(State.STARTING)
        bench.answering.on_lost(Death.CRASH)
        assert bench.answering.adapters_in_use == {"ab" * 32}
        bench.answering.on_engine(State.READY)
        assert [run.adapter for run in bench.engine.runs] == ["ab" * 32] * 2
        bench.answering.on_frame(done(bench.number("lost")))
        await turn()
        assert bench.asker.finals["lost"][0].adapter == "home@abababababab"

    play(scene)


def test_an_adapter_that_went_away_while_a_request_waited() -> None:
    """The request ends with 404 and without the engine; those behind it go on."""

    async def scene() -> None:
        bench = Bench(parallel=1)
        bench.put_adapter("home", "ab" * 32)
        bench.ask("runs")
        bench.ask("waits", adapter="home")
        bench.ask("behind")
        del bench.adapters["home"]
        bench.answering.on_frame(done(bench.number("runs")))
        await turn()
        assert bench.running() == ["runs", "behind"]
        (final,) = bench.asker.finals["waits"]
        assert (final.status, final.adapter) == (404, None)
        bench.answering.on_frame(done(bench.number("behind")))
        await turn()
        assert bench.asker.statuses() == {"runs": [200], "waits": [404], "behind": [200]}

    play(scene)


def test_embeddings_come_as_numbers() -> None:
    """An embed request becomes an `Embed` frame; its final has the vectors and no text."""

    async def scene() -> None:
        bench = Bench()
        job = bench.asker.job("e", time.monotonic())
        job.request = Request(task="embed", input=["a", "b"], truncate=True, priority=7)
        bench.answering.submit(job)
        (told,) = bench.engine.told
        assert isinstance(told, frames.Embed)
        assert (told.texts, told.truncate, told.priority) == (["a", "b"], True, 7)
        vectors = [array("f", [0.6, -0.8]).tobytes(), array("f", [1, 0]).tobytes()]
        bench.answering.on_frame(frames.Embedded(job=told.job, vectors=vectors, prompt_tokens=6))
        await turn()
        (final,) = bench.asker.finals["e"]
        assert (final.status, final.text, final.finish_reason) == (200, UNSET, UNSET)
        assert final.embeddings == [[0.6, -0.8], [1.0, 0.0]]
        assert msgspec.to_builtins(final.usage) == {"prompt_tokens": 6, "cached_tokens": 0, "completion_tokens": 0}

    play(scene)
