"""Handing requests on: to whom, what comes back, and what happens when nothing does."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from agent import elsewhere
from agent.elsewhere import Elsewhere, handed_id
from agent.job import Job
from agent.privacy import Cloud, Peer, Way, clear
from agent.redaction import Redactor
from agent.relay import Relay
from contract.answers import Accepted, Delta, Failure, Final
from contract.requests import Cancel, Request
from contract.topics import AnswerDelta, AnswerFinal, CloudFinal, CloudRequest, NodeCancel, NodeRequest, Topic, parse

PEER, CLOUD = Peer("n2", "cellar"), Cloud()
REQUEST = Request(prompt="hi", privacy="any", stream=True)


class Broker:
    """Takes what a node publishes, and answers as the test says."""

    def __init__(self, answer: Callable[["Broker", Request], None] = lambda _, __: None) -> None:
        self.sent: list[tuple[Topic, bytes]] = []
        self.connected = True
        self._answer = answer
        self.relay = Relay("n1", "home", self.publish)

    def publish(self, topic: str, payload: bytes, **_: object) -> "asyncio.Future[None] | None":
        """As the link does."""
        if not self.connected:
            return None
        self.sent.append((parse(topic)[1], payload))
        if isinstance(self.sent[-1][0], NodeRequest | CloudRequest):
            asyncio.get_running_loop().call_soon(self._answer, self, msgspec.json.decode(payload, type=Request))
        return asyncio.get_running_loop().create_future()

    def say(self, request: Request, *said: Accepted | Delta | Final, cloud: bool = False) -> None:
        """Whoever got the request says this."""
        for one in said:
            kind: Any = CloudFinal if cloud else AnswerFinal if isinstance(one, Final) else AnswerDelta
            self.relay.hear(kind("n1", request.id), msgspec.json.encode(one))


class Local:
    """This node's own answering: it takes a job and ends it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        """Answers at once."""
        self.jobs.append(job)
        self.task = asyncio.ensure_future(job.on_final(Final(id=job.id, status=200, text="own", served_by="local")))

    def accepted(self, job: Job) -> Accepted:
        """It waits."""
        return Accepted(id=job.id, node="n1", queue=3, model="m@1")

    def cancel(self, _job: Job) -> None:
        """Nothing to stop."""


class Ended:
    """What a client got."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.final: Final | None = None
        self.event = asyncio.Event()

    async def end(self, final: Final) -> None:
        """The final; there is only one."""
        assert self.final is None
        self.final = final
        self.event.set()


def run(
    broker: Broker,
    way: Way = PEER,
    request: Request = REQUEST,
    *,
    local: Local | None = None,
    left_s: float = 30.0,
    meanwhile: Callable[[Elsewhere, Job], Coroutine[Any, Any, None]] | None = None,
) -> tuple[Ended, list[str]]:
    """Hands a request on and waits for its end."""
    failures: list[str] = []

    async def whole() -> Ended:
        ended, now = Ended(), time.monotonic()
        job = Job(
            client="app", id="r1", request=request, arrived=now, deadline=now + left_s, on_delta=ended.deltas.append,
            on_final=ended.end,
        )  # fmt: skip
        going = Elsewhere(
            "n1",
            broker.relay,
            lambda job: clear(
                replace(job.request, id=handed_id(job.client, job.id)), way, client="app", why="queue",
                own_site="cellar", redactor=Redactor(),
            ),
            "queue",
            local=local,
            on_failed=lambda: failures.append("failed"),
        )  # fmt: skip
        going.submit(job)
        assert going.accepted(job).queue == 0
        if meanwhile:
            await meanwhile(going, job)
        await ended.event.wait()
        return ended

    return asyncio.run(asyncio.wait_for(whole(), 20)), failures


def answer(broker: Broker, request: Request) -> None:
    """What a good neighbour says."""
    accepted = Accepted(id=request.id or "", node="n2", queue=0, model="m@1")
    pieces = [Delta(id=request.id or "", seq=number, text=text, n=1) for number, text in ((1, "Hel"), (2, "lo"))]
    broker.say(request, accepted, *pieces, Final(id=request.id or "", status=200, text="Hello", served_by="local"))


def test_a_neighbours_answer_comes_back_as_it_was_made() -> None:
    """In its pieces, under the client's id, with who gave it and why."""
    broker = Broker(answer)
    ended, failures = run(broker)
    assert ended.final
    assert (ended.final.id, ended.final.status, ended.final.text) == ("r1", 200, "Hello")
    assert (ended.final.node, ended.final.served_by, ended.final.why) == ("n1", "peer:n2", "queue")
    assert [(delta.id, delta.seq, delta.text) for delta in ended.deltas] == [("r1", 1, "Hel"), ("r1", 2, "lo")]
    assert ended.final.last_seq == 2
    [(topic, payload)] = broker.sent
    handed = msgspec.json.decode(payload, type=Request)
    assert topic == NodeRequest("n2", "n1")
    assert (handed.id, handed.handed and handed.handed.client) == (handed_id("app", "r1"), "app")
    assert failures == []


def test_a_piece_that_was_lost_is_repaired_by_the_final() -> None:
    """Nothing goes out of order; `last_seq` says what did."""

    def lossy(broker: Broker, request: Request) -> None:
        one, three = (Delta(id="x", seq=number, text=text, n=1) for number, text in ((1, "a"), (3, "c")))
        broker.say(request, one, three, Final(id="x", status=200, text="abc"))

    ended, _ = run(Broker(lossy))
    assert [delta.text for delta in ended.deltas] == ["a"]
    assert ended.final
    assert (ended.final.text, ended.final.last_seq) == ("abc", 1)


def test_the_clouds_answer_says_which_provider_gave_it() -> None:
    """As the controller says it."""

    def cloud(broker: Broker, request: Request) -> None:
        broker.say(request, Final(id="x", status=200, text="far", served_by="cloud:one"), cloud=True)

    broker = Broker(cloud)
    ended, _ = run(broker, CLOUD, replace(REQUEST, stream=False))
    assert ended.final
    assert (ended.final.text, ended.final.served_by, ended.final.why) == ("far", "cloud:one", "queue")
    assert [topic for topic, _ in broker.sent] == [CloudRequest("n1")]


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503, 507])
@pytest.mark.parametrize("way", [PEER, CLOUD], ids=["neighbour", "cloud"])
def test_what_fails_elsewhere_is_answered_here(way: Way, status: int) -> None:
    """If this node can; else the other's error is the answer."""

    def fail(broker: Broker, request: Request) -> None:
        final = Final(id="x", status=status, error=Failure("no", "cannot"))
        broker.say(request, final, cloud=isinstance(way, Cloud))

    ended, failures = run(Broker(fail), way, local=Local())
    assert ended.final
    assert (ended.final.text, ended.final.served_by) == ("own", "local")
    assert failures == ["failed"]
    alone, _ = run(Broker(fail), way)
    assert alone.final
    assert (alone.final.status, alone.final.why) == (status, "queue")


def test_an_answer_is_never_continued_by_another() -> None:
    """It fails with the text that it had, though this node could answer; or when it began anew in other words."""

    def half(broker: Broker, request: Request) -> None:
        broker.say(request, Delta(id="x", seq=1, text="Hel", n=1))
        broker.say(request, Final(id="x", status=500, text="Hel", error=Failure("engine_failed", "cannot")))

    def anew(broker: Broker, request: Request) -> None:
        broker.say(request, Delta(id="x", seq=1, text="Hel", n=1), Final(id="x", status=200, text="Good day"))

    for script in (half, anew):
        local = Local()
        ended, _ = run(Broker(script), local=local)
        assert ended.final
        assert (ended.final.status, ended.final.text) == (500, "Hel")
        assert local.jobs == []


def test_a_neighbour_that_does_not_accept_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to stop, in case that it hears of it later, and this node answers."""
    monkeypatch.setattr(elsewhere, "ACCEPT_S", 0.05)
    broker = Broker()
    ended, failures = run(broker, local=Local())
    assert ended.final
    assert ended.final.text == "own"
    assert failures == ["failed"]
    assert broker.sent[-1] == (NodeCancel("n2", "n1"), msgspec.json.encode(Cancel(handed_id("app", "r1"))))


def test_without_a_connection_nothing_leaves_and_this_node_answers() -> None:
    """At once."""
    broker = Broker()
    broker.connected = False
    ended, _ = run(broker, local=Local())
    assert ended.final
    assert ended.final.text == "own"
    assert broker.sent == []


def test_a_deadline_that_passes_elsewhere_is_one() -> None:
    """A neighbour that accepted and is too late."""

    def slow(broker: Broker, request: Request) -> None:
        broker.say(request, Accepted(id="x", node="n2", queue=9, model="m@1"))

    ended, _ = run(Broker(slow), local=Local(), left_s=0.1)
    assert ended.final
    assert (ended.final.status, ended.final.error and ended.final.error.code) == (408, "deadline")


def test_a_cancel_reaches_whoever_has_the_request() -> None:
    """And the client has its end."""

    async def stop(going: Elsewhere, job: Job) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        going.cancel(job)

    broker = Broker()
    ended, _ = run(broker, meanwhile=stop, local=Local())
    assert ended.final
    assert ended.final.status == 499
    assert [type(topic) for topic, _ in broker.sent] == [NodeRequest, NodeCancel]


def test_what_may_not_leave_does_not() -> None:
    """Whatever was decided: the gate says no, and this node answers."""
    broker = Broker(answer)
    for way in (PEER, CLOUD):
        ended, _ = run(broker, way, replace(REQUEST, privacy="local"))
        assert ended.final
        assert (ended.final.status, ended.final.error and ended.final.error.code) == (403, "privacy")
    assert broker.sent == []
