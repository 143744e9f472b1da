"""What a node lets clients ask for, by what the controller signed."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.quotas import Quotas
from contract.enrolment import DAY_MS
from contract.errors import Refused
from contract.signed import Time, Trust, key_id, sign
from contract.status import Status
from contract.steering import Quota
from contract.topics import ClientQuota

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
START_MS = 20_000 * DAY_MS + 1000


class Gate:
    """Quotas with clocks that the test sets."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.subscribed: list[str] = []
        self.quotas = Quotas(
            "home",
            trust=lambda: Trust({key_id(PUBLIC): PUBLIC}),
            time=lambda: Time(self.now_ms),
            subscribe=self.subscribed.extend,
            monotonic_ms=lambda: self.now_ms,
        )

    def learn(self, client: str, key: Ed25519PrivateKey = KEY, **fields: Any) -> None:
        """A document comes."""
        about = {"rev": self.now_ms, "issued": self.now_ms, "exp": self.now_ms + DAY_MS, "client": client}
        document = Quota(**{**about, **fields})
        self.quotas.take(sign(document, [key]), client)

    def wait_ms(self, client: str) -> int | None:
        """Asks; None when it may."""
        try:
            self.quotas.admit(client)
        except Refused as no:
            assert (no.status, no.code) == (Status.BUSY, "quota")
            return no.retry_after_ms
        return None


@pytest.fixture
def gate() -> Gate:
    """A node that knows no client."""
    return Gate()


def test_quotas_are_fetched_when_a_client_asks_first(gate: Gate) -> None:
    """Once, and by every later connection; until they are there, and where there are none, all may ask."""
    topic = ClientQuota("kiosk").path("home")
    assert [gate.wait_ms("kiosk") for _ in range(100)] == [None] * 100
    assert gate.subscribed == [topic] == gate.quotas.filters


def test_requests_of_a_minute_are_counted_for_each_client(gate: Gate) -> None:
    """Over it, a client hears when to come again, and others may ask; then there is room."""
    gate.learn("kiosk", requests_per_minute=3)
    assert [gate.wait_ms("kiosk") for _ in range(4)] == [None, None, None, 20_000]
    assert gate.wait_ms("lamp") is None
    gate.now_ms += 20_000
    assert gate.wait_ms("kiosk") is None


def test_tokens_of_a_day_are_counted(gate: Gate) -> None:
    """Also those that were had before the quotas were there. With midnight, in UTC, they begin anew."""
    gate.quotas.spend("kiosk", 60)
    gate.learn("kiosk", tokens_per_day=100)
    assert gate.wait_ms("kiosk") is None
    gate.quotas.spend("kiosk", 60)
    assert gate.wait_ms("kiosk") == DAY_MS - 1000
    gate.now_ms += DAY_MS - 1000
    assert gate.wait_ms("kiosk") is None


def test_newer_quotas_hold_at_once(gate: Gate) -> None:
    """Also those without limits; an older document changes nothing."""
    gate.learn("kiosk", requests_per_minute=1)
    gate.wait_ms("kiosk")
    assert gate.wait_ms("kiosk") is not None
    gate.learn("kiosk", rev=START_MS - 1, requests_per_minute=50)
    assert gate.wait_ms("kiosk") is not None
    gate.now_ms += 1
    gate.learn("kiosk")
    assert gate.wait_ms("kiosk") is None


@pytest.mark.parametrize("fields", [{"key": STRANGER}, {"client": "lamp"}, {"exp": START_MS}])
def test_what_the_controller_did_not_sign_for_this_client_counts_for_nothing(
    gate: Gate, fields: dict[str, Any]
) -> None:
    """A stranger's document, one of another client, one that has expired."""
    client = fields.pop("client", "kiosk")
    document = Quota(
        client=client, rev=1, issued=START_MS, exp=fields.pop("exp", START_MS + DAY_MS), requests_per_minute=1
    )
    gate.quotas.take(sign(document, [fields.pop("key", KEY)]), "kiosk")
    assert [gate.wait_ms("kiosk") for _ in range(5)] == [None] * 5
