"""Asking providers: within budgets, around faults, with everything written down."""

import asyncio
import itertools
from collections.abc import Iterator

import httpx
import pytest
from msgspec.structs import replace

from contract.answers import Delta, Final
from contract.enrolment import DAY_MS
from contract.requests import Handed, Message, NamedSchema, Request, ResponseFormat
from fleet.api.cloud import Left, LeftFilter
from fleet.cloud.breaker import MAX_FAILURES
from fleet.cloud.ledger import Asker, Ledger
from fleet.cloud.lender import Lender
from fleet.cloud.question import most_tokens
from fleet.cloud.settings import NANO, CloudSettings, Limit, UpstreamSettings
from fleet.cloud.speech import speak
from fleet.cloud.upstream import Upstream
from fleet.database.cloud import read_left
from fleet.database.store import Database, open_database
from tests.fakes.provider import FAULTS, KEY, Provider

NOW_MS = 1_800_000_000_000
ASKER = Asker("n1", "app")
REQUEST = Request(
    id="r1", prompt="hello there", privacy="any", max_tokens=20, ttl_ms=20_000, handed=Handed("app", "queue")
)
SPENT = 15  # what the provider says that an answer takes


class Bank:
    """A lender with a clock that the test sets."""

    def __init__(self, database: Database, settings: CloudSettings) -> None:
        self.database = database
        self.settings = settings
        self.now_s = 0.0
        self.ledger = Ledger(database, settings, lambda: NOW_MS)

    async def ask(self, *requests: Request, asker: Asker = ASKER) -> list[Final]:
        """Asks for all of them at once."""
        async with httpx.AsyncClient(trust_env=False) as client:
            upstreams = [Upstream(one, KEY, client) for one in self.settings.upstreams]
            self.lender = self.open_lender(upstreams)
            return await asyncio.gather(*(self.hear(request, asker) for request in requests))

    async def hear(self, request: Request, asker: Asker = ASKER) -> Final:
        """One answer; its deltas must be its text."""
        texts, final = list[str](), None
        async for said in speak(self.lender, asker, request, NOW_MS):
            if isinstance(said, Delta):
                texts.append(said.text)
                assert said.seq == len(texts)
            else:
                assert final is None
                final = said
        assert final is not None
        assert not request.stream or "".join(texts) == (final.text or "")
        return final

    def open_lender(self, upstreams: list[Upstream]) -> Lender:
        """One with short pauses."""
        return Lender(upstreams, self.ledger, requests_per_minute=100_000, pause_s=0.01, now_s=self._now_s)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() + self.now_s

    def left(self) -> list[Left]:
        """What was written down, the oldest first."""
        with self.database.read() as connection:
            return read_left(connection, LeftFilter(limit=1000))[::-1]

    def spent(self) -> dict[str, tuple[int, int]]:
        """Tokens and money of today."""
        return self.ledger.spent_today()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that answers."""
    running = Provider()
    yield running
    running.stop()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database of each kind."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A new database, where its kind does not matter."""
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('db') / 'fleet.db'}")
    yield opened
    opened.close()


def upstream(provider: Provider, name: str = "one", **more: object) -> UpstreamSettings:
    """Settings for a provider: 1 and 2 of the currency for a million tokens."""
    made = UpstreamSettings(name=name, url=provider.url, model="large", input_price=1.0, output_price=2.0)
    return replace(made, **more)


def bank(database: Database, *upstreams: UpstreamSettings, **limits: Limit) -> Bank:
    """A bank of these providers."""
    return Bank(database, replace(CloudSettings(upstreams=list(upstreams)), **limits))


@pytest.mark.parametrize("style", ["chat", "completions"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_comes_through_and_is_written_down(
    sqlite: Database, provider: Provider, style: str, stream: bool
) -> None:
    """In both forms of the API, whole and in pieces: who asked and why, what left, what it cost."""
    house = bank(sqlite, upstream(provider, style=style))
    [final] = asyncio.run(house.ask(replace(REQUEST, stream=stream)))
    assert (final.status, final.text, final.finish_reason) == (200, "echo: hello there", "stop")
    assert (final.served_by, final.why, final.model) == ("cloud:one", "queue", "large")
    [left] = house.left()
    assert (left.node, left.client, left.request, left.why, left.privacy) == ("n1", "app", "r1", "queue", "any")
    assert (left.provider, left.model, left.outcome) == ("one", "large", "answered")
    assert (left.prompt_tokens, left.completion_tokens, left.nano) == (10, 5, 10 * 1000 + 5 * 2000)
    assert left.sha256 == REQUEST.texts_sha256
    assert left.bytes == len(provider.raw)
    assert house.spent() == dict.fromkeys(("fleet", "node:n1", "client:app"), (SPENT, 20_000))


def test_only_what_is_meant_for_a_provider_reaches_it(sqlite: Database, provider: Provider) -> None:
    """Turns, sampling and the form of the answer; no names of nodes, clients, conversations, adapters."""
    request = replace(
        REQUEST, prompt=None, messages=[Message("system", "be brief"), Message("user", "hi")], temperature=0.5,
        stop=".", conversation="secret", adapter="private", model="mine", logit_bias={1: 2.0},
        response_format=ResponseFormat("json_schema", NamedSchema({"type": "object"})),
    )  # fmt: skip
    asyncio.run(bank(sqlite, upstream(provider)).ask(request))
    [body] = provider.bodies
    assert body == {
        "model": "large", "max_tokens": 20, "stream": False, "temperature": 0.5, "stop": ["."],
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}
        },
    }  # fmt: skip


@pytest.mark.parametrize("privacy", [None, "local", "site"])
def test_a_prompt_that_must_stay_goes_no_further_than_here(sqlite: Database, provider: Provider, privacy: str) -> None:
    """Also when a node let it out: nothing reaches a provider, and nothing is counted."""
    house = bank(sqlite, upstream(provider))
    [final] = asyncio.run(house.ask(replace(REQUEST, privacy=privacy)))
    assert (final.status, final.error and final.error.code) == (403, "privacy")
    assert (provider.num_requests, house.left(), house.spent()) == (0, [], {})


def test_a_budget_is_kept_to_the_token_however_many_ask_at_once(database: Database, provider: Provider) -> None:
    """64 at once, of which two fit at a time: what is spent never passes it, the rest is refused until tomorrow."""
    most = most_tokens(REQUEST) + 20
    house = bank(database, upstream(provider), fleet=Limit(tokens_per_day=2 * most + SPENT))
    finals = asyncio.run(house.ask(*(replace(REQUEST, id=f"r{number}") for number in range(64))))
    answered = [final for final in finals if final.status == 200]
    refused = [final.error for final in finals if final.status == 429]
    assert len(answered) + len(refused) == 64
    assert len(answered) >= 2
    assert refused
    assert all(no and no.code == "budget" and no.retry_after_ms == DAY_MS - NOW_MS % DAY_MS for no in refused)
    assert house.spent()["fleet"][0] == SPENT * len(answered) == SPENT * provider.num_requests <= 2 * most + SPENT
    assert len(house.left()) == len(answered)


@pytest.mark.parametrize("whose", ["fleet", "node", "client"])
def test_each_budget_holds_for_itself_and_the_next_token_is_refused(
    sqlite: Database, provider: Provider, whose: str
) -> None:
    """Filled to the last token by one, then by nobody; another node or client has its own."""
    most = most_tokens(REQUEST) + 20
    house = bank(sqlite, upstream(provider), **{whose: Limit(tokens_per_day=most + SPENT)})
    for _ in range(2):
        assert asyncio.run(house.ask(REQUEST))[0].status == 200
    assert asyncio.run(house.ask(REQUEST))[0].status == 429
    other = asyncio.run(house.ask(REQUEST, asker=Asker("n2", "other")))[0]
    assert other.status == (429 if whose == "fleet" else 200)


def test_money_is_counted_with_the_tokens(sqlite: Database, provider: Provider) -> None:
    """A budget of 0.00002 is what one answer costs; the reservation of a second one does not fit."""
    most_nano = upstream(provider).cost_nano(most_tokens(REQUEST), 20)
    house = bank(sqlite, upstream(provider), node=Limit(money_per_day=most_nano / NANO))
    assert [asyncio.run(house.ask(REQUEST))[0].status for _ in range(2)] == [200, 429]
    assert house.spent()["node:n1"] == (SPENT, 20_000)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_provider_that_fails_is_stepped_over(sqlite: Database, provider: Provider, fault: str, stream: bool) -> None:
    """The next one answers, unless a part of the answer was out: then no other voice continues it."""
    provider.next_fault = lambda: fault
    second = Provider()
    try:
        house = bank(sqlite, upstream(provider, timeout_s=0.2), upstream(second, "two"))
        [final] = asyncio.run(house.ask(replace(REQUEST, stream=stream)))
    finally:
        second.stop()
    left = house.left()
    if stream and fault in ("cut", "no end"):
        assert (final.status, final.error and final.error.code) == (502, "cloud")
        assert final.text
        assert "echo: hello there".startswith(final.text)
        assert second.num_requests == 0
    else:
        assert (final.status, final.text, final.served_by) == (200, "echo: hello there", "cloud:two")
        assert left[-1].outcome == "answered"
    assert all(one.outcome not in ("sent", "answered") for one in left if one.provider == "one")
    assert len([one for one in left if one.provider == "one"]) == provider.num_requests
    # What may have been made is paid, what was refused is not.
    kept = {"busy", "error", "redirect", "key", "question"}
    assert (house.spent()["fleet"][0] == SPENT) == (fault in kept)


def test_who_is_down_is_left_alone_after_five_and_probed_by_one(sqlite: Database, provider: Provider) -> None:
    """A burst of 200 ends with 200 finals; the provider hears of few of them, then of one, then of all again."""
    house = bank(sqlite, upstream(provider, parallel=4))

    async def outage() -> list[int]:
        async with httpx.AsyncClient(trust_env=False) as client:
            places = [Upstream(one, KEY, client) for one in house.settings.upstreams]
            house.lender = house.open_lender(places)
            faults = itertools.chain(itertools.repeat(None, 50), itertools.repeat("error"))
            provider.next_fault = lambda: next(faults)
            burst = await asyncio.gather(
                *(house.hear(replace(REQUEST, id=f"r{number}", ttl_ms=60_000)) for number in range(200))
            )
            heard = [provider.num_requests]
            assert sorted({final.status for final in burst}) == [200, 502]
            assert (await house.hear(REQUEST)).status == 502
            heard.append(provider.num_requests)
            house.now_s += 10  # beyond the first pause
            await asyncio.gather(*(house.hear(REQUEST) for _ in range(20)))
            heard.append(provider.num_requests)
            provider.next_fault = lambda: None
            house.now_s += 30
            assert (await house.hear(REQUEST)).status == 200
            assert [final.status for final in await asyncio.gather(*(house.hear(REQUEST) for _ in range(20)))] == [
                200
            ] * 20
            return heard

    burst, after, probed = asyncio.run(outage())
    # Three more were under way. Before that each of three that had been asked while it was up may end late, and then
    # what failed meanwhile is not in a row with what follows.
    assert 50 + MAX_FAILURES <= burst <= 50 + 3 * (MAX_FAILURES - 1) + MAX_FAILURES + 3
    assert (after, probed) == (burst, burst + 1)
    assert provider.most_at_once <= 4


def test_what_is_left_in_the_middle_is_closed_and_stays_counted(sqlite: Database, provider: Provider) -> None:
    """The provider may have made all of it."""
    house = bank(sqlite, upstream(provider))

    async def leave() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            lender = Lender([Upstream(house.settings.upstreams[0], KEY, client)], house.ledger, requests_per_minute=9)
            answer = lender.answer(ASKER, replace(REQUEST, stream=True), 10.0)
            await anext(answer)
            await answer.aclose()

    asyncio.run(leave())
    assert [one.outcome for one in house.left()] == ["left"]
    assert house.spent()["fleet"][0] == most_tokens(REQUEST) + 20
