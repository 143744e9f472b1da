"""From what a node knows to who answers, and that no prompt goes where it may not, whatever happens."""

import asyncio
import random
import time
from typing import Any, get_args

import msgspec
import pytest

from agent.answering import Answering
from agent.config import Limits, Sampling
from agent.dispatch import Dispatch
from agent.elsewhere import Elsewhere
from agent.job import Job
from agent.models import Manner
from agent.quarantine import Quarantine
from agent.redaction import Redactor
from agent.relay import Relay
from agent.router import Place
from agent.site import Site
from agent.sureness import Sureness
from contract.answers import Failure, Final
from contract.errors import Refused
from contract.presence import Load
from contract.requests import Handed, Privacy, Request
from contract.status import Status
from contract.topics import AnswerFinal, CloudFinal, CloudRequest, NodeLoad, NodeRequest, parse

LOAD = Load(ts=1, wait_ms=0, prefill_tok_s=500.0, decode_tok_s=50.0, context_tokens=2048, models=["m@1"])


class Node:
    """A node with a real dispatch, whose engine never starts, and a broker that keeps and answers what leaves."""

    def __init__(self, site: str = "cellar") -> None:
        self.refusal: Refused | None = None
        self.wait_ms = 0.0
        self.has_cloud = True
        self.kept: dict[str, float] = {}
        self.left: list[tuple[str, bytes]] = []
        self.answer: Any = lambda _topic, _request: None
        self.answering = Answering(
            node="n1", model="m@1", parallel=1, limits=Limits, sampling=Sampling(), manner=Manner(),
            find_adapter=lambda _: None,  # type: ignore[arg-type, return-value]
            quarantine=Quarantine(), send=lambda _: None,
        )  # fmt: skip
        self.relay = Relay("n1", "home", self._publish)
        self.site = Site("n1", site, "home", own_load=lambda: LOAD, publish=self._publish, now_ms=lambda: 1)
        self.dispatch = Dispatch(
            "n1", site=self.site, relay=self.relay, redactor=Redactor(), answering_for=self._answering_for,
            place_of=lambda _: Place("n1", self.wait_ms, 500, 50, 2048), default_max_tokens=10,
            has_cloud=lambda: self.has_cloud,
            sureness=Sureness(self.kept),
        )  # fmt: skip

    def meet(self, name: str, site: str = "cellar") -> None:
        """A neighbour tells its load."""
        self.site.hear(NodeLoad(site, name), msgspec.json.encode(LOAD), retained=False)

    def _answering_for(self, _request: Request) -> Answering:
        if self.refusal is not None:
            raise self.refusal
        return self.answering

    def _publish(self, topic: str, payload: bytes, **_: object) -> "asyncio.Future[None] | None":
        self.left.append((topic, payload))
        if "/req" in topic:
            self.answer(parse(topic)[1], msgspec.json.decode(payload, type=Request))
        return asyncio.get_running_loop().create_future()

    async def ask(self, request: Request) -> Final:
        """The final of a request, or the refusal as one."""
        ended: asyncio.Future[Final] = asyncio.get_running_loop().create_future()

        async def end(final: Final) -> None:
            ended.set_result(final)

        now = time.monotonic()
        job = Job(
            client="app", id=request.id or "r", request=request, arrived=now, deadline=now + 5, on_delta=lambda _: None,
            on_final=end,
        )  # fmt: skip
        try:
            chosen = self.dispatch.choose(request, "app", 5_000)
        except Refused as no:
            return Final(id=job.id, status=no.status, error=Failure(no.code, no.message))
        if not isinstance(chosen.answerer, Elsewhere):
            return Final(id=job.id, status=200, served_by="local", why=chosen.why or msgspec.UNSET)
        chosen.answerer.submit(job)
        return await ended


def missing() -> Refused:
    """There is no such model."""
    return Refused(Status.NOT_FOUND, "model", "cannot find model 'big'")


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (missing(), "capability"),
        (Refused(Status.UNAVAILABLE, "engine", "cannot"), "health"),
        (Refused(Status.NO_SPACE, "memory", "cannot"), "health"),
        (Refused(Status.BUSY, "queue", "cannot"), "queue"),
    ],
)
def test_a_refusal_of_this_node_is_a_reason_to_hand_on(refusal: Refused, why: str) -> None:
    """To the neighbour; without one to the cloud; without both, or if it may not, it is the answer."""

    async def whole() -> None:
        node = Node()
        node.refusal = refusal
        node.answer = lambda topic, request: _echo(node, topic, request)
        request = Request(id="r", prompt="hi", privacy="any")
        final = await node.ask(request)
        assert (final.status, final.served_by, final.why) == (200, "cloud:one", why)
        node.meet("n2")
        final = await node.ask(request)
        assert (final.status, final.served_by, final.why) == (200, "peer:n2", why)
        for other in (
            msgspec.structs.replace(request, privacy="local"),
            msgspec.structs.replace(request, handed=Handed("c", "queue")),
        ):
            left = len(node.left)
            assert (await node.ask(other)).status == refusal.status
            assert len(node.left) == left

    asyncio.run(whole())


def test_a_late_answer_says_why_only_if_it_could_have_been_elsewhere() -> None:
    """A prompt that must stay is answered as ever."""

    async def whole() -> None:
        node = Node()
        node.wait_ms, node.has_cloud = 60_000, False
        request = Request(id="r", prompt="hi", privacy="any")
        assert (await node.ask(request)).why == "queue"
        assert (await node.ask(msgspec.structs.replace(request, privacy="local"))).why is msgspec.UNSET

    asyncio.run(whole())


@pytest.mark.parametrize(
    "refusal",
    [
        Refused(Status.INVALID, "model", "cannot"),
        Refused(Status.ENGINE_FAILED, "quarantined", "cannot"),
        Refused(Status.BUSY, "client_queue", "cannot"),
    ],
)
def test_what_is_wrong_with_a_request_is_wrong_everywhere(refusal: Refused) -> None:
    """It is refused here, and so is a client that has more waiting than its share."""

    async def whole() -> None:
        node = Node()
        node.meet("n2")
        node.refusal = refusal
        assert (await node.ask(Request(id="r", prompt="hi", privacy="any"))).status == refusal.status
        assert node.left == []

    asyncio.run(whole())


def test_a_cloud_that_failed_is_left_alone_for_a_while() -> None:
    """The second request does not leave at all."""

    async def whole() -> None:
        node = Node()
        node.wait_ms = 60_000
        node.answer = lambda topic, request: node.relay.hear(
            CloudFinal("n1", request.id or ""),
            msgspec.json.encode(Final(id="x", status=502, error=Failure("cloud", "cannot"))),
        )
        request = Request(id="r", prompt="hi", privacy="any")
        elsewhere = node.dispatch.choose(request, "app", 5_000)
        assert isinstance(elsewhere.answerer, Elsewhere)
        job_end = asyncio.ensure_future(node.ask(request))
        await asyncio.sleep(0.01)
        job_end.cancel()  # it went on to this node's engine, which never starts
        assert len(node.left) == 1
        final = await node.ask(request)
        assert (final.served_by, final.why) == ("local", "queue")
        assert len(node.left) == 1

    asyncio.run(whole())


def test_of_many_random_requests_no_prompt_goes_where_it_may_not() -> None:
    """Random privacy, sites, texts, faults: a local text never leaves, one for the site goes to nodes of it only."""

    async def whole() -> None:
        rng = random.Random(5)
        for _ in range(150):
            node = Node(site=rng.choice(["cellar", "", "attic"]))
            for name in ("n2", "n3"):
                if rng.random() < 0.7:
                    node.meet(name)
            node.has_cloud = rng.random() < 0.8
            node.answer = lambda topic, request, node=node: _random(rng, node, topic, request)
            for number in range(8):
                node.refusal = missing()  # so that all want to leave
                privacy: Privacy | None = rng.choice([None, *get_args(Privacy)])
                secret = f"secret{rng.getrandbits(64):x}"
                request = Request(
                    id=f"r{number}", prompt=f"{secret} of {secret}@example.org", privacy=privacy,
                    stream=rng.random() < 0.5, conversation=secret, stop=secret[:20],
                )  # fmt: skip
                before = len(node.left)
                await node.ask(request)
                for topic, payload in node.left[before:]:
                    to = parse(topic)[1]
                    assert privacy not in (None, "local")
                    assert isinstance(to, CloudRequest) <= (privacy in ("redact", "any"))
                    assert not isinstance(to, NodeRequest) or node.site.name
                    assert privacy != "redact" or not isinstance(to, CloudRequest) or b"@example.org" not in payload

    asyncio.run(whole())


def _echo(node: Node, topic: object, request: Request) -> None:
    final = Final(id="x", status=200, text="hello", served_by="cloud:one")
    kind: Any = CloudFinal if isinstance(topic, CloudRequest) else AnswerFinal
    node.relay.hear(kind("n1", request.id or ""), msgspec.json.encode(final))


def _random(rng: random.Random, node: Node, topic: object, request: Request) -> None:
    kind: Any = CloudFinal if isinstance(topic, CloudRequest) else AnswerFinal
    final = Final(id="x", status=rng.choice([200, 404, 429, 500, 502]), text="hello", served_by="cloud:one")
    payload = msgspec.json.encode(final) if rng.random() < 0.8 else b"{"
    node.relay.hear(kind("n1", request.id or ""), payload)
    if payload == b"{":  # what cannot be read is followed by what can
        node.relay.hear(kind("n1", request.id or ""), msgspec.json.encode(final))
