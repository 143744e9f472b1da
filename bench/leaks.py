"""What leaves a node and a controller when requests, answers and providers are random: every byte is looked at.

A real dispatch on the node's side, whose engine refuses everything so that all wants to leave; what it sends for the
cloud goes to a real lender, and from it over HTTP to a provider that records what it gets and fails as it likes.
"""

import asyncio
import random
import time
from typing import Any, get_args

import httpx
import msgspec
from msgspec.structs import replace

from agent.dispatch import Dispatch
from agent.job import Job
from agent.redaction import Redactor
from agent.relay import Relay
from agent.router import Place
from agent.site import Site
from agent.sureness import Sureness
from contract.answers import Final
from contract.errors import Refused
from contract.presence import Load
from contract.requests import Handed, Privacy, Request
from contract.status import Status
from contract.topics import AnswerFinal, CloudFinal, CloudRequest, NodeLoad, Topic, parse
from fleet.cloud.ledger import Asker, Ledger
from fleet.cloud.lender import Lender
from fleet.cloud.settings import CloudSettings, Limit, UpstreamSettings
from fleet.cloud.speech import speak
from fleet.cloud.upstream import Upstream
from fleet.database.store import Database
from tests.fakes.provider import FAULTS, KEY, Provider

NOW_MS = 1_800_000_000_000
LOAD = Load(ts=1, wait_ms=0, prefill_tok_s=500.0, decode_tok_s=50.0, context_tokens=2048, models=["m@1"])
# Faults that take no time; the others are in the tests.
QUICK = [fault for fault in FAULTS if fault != "stall"]


class House:
    """A node, its neighbours, and the controller with a provider."""

    def __init__(self, database: Database, provider: Provider, client: httpx.AsyncClient, rng: random.Random) -> None:
        self.rng = rng
        self.off_site = bytearray()  # what went to the controller
        upstream = UpstreamSettings(name="one", url=provider.url, model="large")
        ledger = Ledger(database, CloudSettings(upstreams=[upstream]), lambda: NOW_MS)
        self._upstream, self._ledger = Upstream(upstream, KEY, client), ledger
        self._tasks: set[asyncio.Task[None]] = set()
        self._relay = Relay("n1", "home", self._publish)
        site = Site("n1", "cellar", "home", own_load=lambda: LOAD, publish=self._publish, now_ms=lambda: NOW_MS)
        self._site = site

    async def ask(self, request: Request) -> Final | None:
        """The final; None: it was refused at once."""
        for name in ("n2", "n3"):
            load = msgspec.json.encode(LOAD) if self.rng.random() < 0.2 else b""  # empty: it has gone
            self._site.hear(NodeLoad("cellar", name), load, retained=False)
        dispatch = Dispatch(  # a new one each time, which remembers no failure
            "n1", site=self._site, relay=self._relay, redactor=Redactor(), answering_for=_refuse,
            place_of=lambda _: Place("n1", 0, 500, 50, 2048), default_max_tokens=10, has_cloud=lambda: True,
            sureness=Sureness({}),
        )  # fmt: skip
        ended: asyncio.Future[Final] = asyncio.get_running_loop().create_future()

        async def end(final: Final) -> None:
            ended.set_result(final)

        now = time.monotonic()
        job = Job(
            client="app", id=request.id or "", request=request, arrived=now, deadline=now + 5,
            on_delta=lambda _: None, on_final=end,
        )  # fmt: skip
        try:
            chosen = dispatch.choose(request, "app", 5_000)
        except Refused:
            return None
        chosen.answerer.submit(job)
        return await ended

    def _publish(self, topic: str, payload: bytes, **_: object) -> "asyncio.Future[None] | None":
        to = parse(topic)[1]
        if "/req" in topic:
            self._tasks.add(task := asyncio.ensure_future(self._answer(to, payload)))
            task.add_done_callback(self._tasks.discard)
        return asyncio.get_running_loop().create_future()

    async def _answer(self, to: Topic, payload: bytes) -> None:
        request = msgspec.json.decode(payload, type=Request)
        if isinstance(to, CloudRequest):
            self.off_site += payload
            # A new one each time: faults shall be met, not stepped around.
            lender = Lender([self._upstream], self._ledger, requests_per_minute=10**6, pause_s=0.0)
            async for said in speak(lender, Asker("n1", "app"), request, NOW_MS):
                if isinstance(said, Final):
                    self._relay.hear(CloudFinal("n1", said.id), msgspec.json.encode(said))
            return
        status = self.rng.choice([200, 404, 429, 503])
        final = Final(id=request.id or "", status=status, text="hello")
        self._relay.hear(AnswerFinal("n1", final.id), msgspec.json.encode(final))


async def leaked_bytes(database: Database, num_requests: int, seed: int) -> tuple[int, int]:
    """The bytes of prompts that had to stay and were off the site, and how many requests did leave it."""
    rng, provider = random.Random(seed), Provider()
    provider.next_fault = lambda: rng.choice([None, *QUICK])
    kept = list[str]()
    async with httpx.AsyncClient(trust_env=False) as client:
        house = House(database, provider, client, rng)
        for number in range(num_requests):
            secret = f"{rng.getrandbits(128):032x}"
            privacy: Privacy | None = rng.choice([None, *get_args(Privacy)])
            if privacy in (None, "local", "site"):
                kept.append(secret)
            await house.ask(_random_request(rng, number, secret, privacy))
    provider.stop()
    outside = bytes(house.off_site + provider.raw)
    leaks = sum(len(secret) for secret in kept if secret.encode() in outside)
    return leaks, provider.num_requests


def _random_request(rng: random.Random, number: int, secret: str, privacy: Privacy | None) -> Request:
    noise = "".join(
        chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x2FF)])) for _ in range(rng.randrange(40))
    )
    request = Request(id=f"r{number}", prompt=f"{noise}{secret}{noise}", privacy=privacy, stream=rng.random() < 0.3)
    if rng.random() < 0.3:
        request = replace(request, stop=secret, conversation=secret)
    if rng.random() < 0.1:
        request = replace(request, handed=Handed("app", "queue"))
    return request


def _refuse(_request: Request) -> Any:
    raise Refused(Status.NOT_FOUND, "model", "cannot find model 'big'")


async def budget_overshoot(database: Database, num_at_once: int) -> tuple[int, int]:
    """By how many tokens a budget was passed by so many at once, and how many were refused."""
    provider, limit = Provider(), 1_000
    upstream = UpstreamSettings(name="one", url=provider.url, model="large")
    settings = CloudSettings(upstreams=[upstream], fleet=Limit(tokens_per_day=limit))
    ledger = Ledger(database, settings, lambda: NOW_MS)
    async with httpx.AsyncClient(trust_env=False) as client:
        lender = Lender([Upstream(upstream, KEY, client)], ledger, requests_per_minute=10**6)
        finals = await asyncio.gather(*(_hear(lender, f"b{number}") for number in range(num_at_once)))
    provider.stop()
    num_refused = sum(final.status == Status.BUSY for final in finals)
    return max(0, ledger.spent_today()["fleet"][0] - limit), num_refused


async def finals_when_down(database: Database, num_requests: int) -> int:
    """How many of a burst get a final when the provider goes down in the middle of it."""
    provider = Provider()
    provider.next_fault = lambda: None if provider.num_requests < num_requests // 4 else "error"
    upstream = UpstreamSettings(name="one", url=provider.url, model="large", parallel=4)
    ledger = Ledger(database, CloudSettings(upstreams=[upstream]), lambda: NOW_MS)
    async with httpx.AsyncClient(trust_env=False) as client:
        lender = Lender([Upstream(upstream, KEY, client)], ledger, requests_per_minute=10**6)
        finals = await asyncio.gather(*(_hear(lender, f"d{number}") for number in range(num_requests)))
    provider.stop()
    return sum(final.status in (Status.OK, Status.CLOUD_FAILED) for final in finals)


async def _hear(lender: Lender, request_id: str) -> Final:
    request = Request(id=request_id, prompt="hello there", privacy="any", max_tokens=20, ttl_ms=60_000)
    async for said in speak(lender, Asker("n1", "app"), request, NOW_MS):
        if isinstance(said, Final):
            return said
    raise AssertionError("an answer ends with a final")
