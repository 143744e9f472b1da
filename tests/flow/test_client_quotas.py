"""Quotas of clients on their way to the nodes, on each database; the broker is played."""

from collections.abc import Iterator

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.signed import Accepted, Refusal, Time, Trust, key_id, verify
from contract.steering import Quota
from contract.topics import ClientQuota, Topic
from fleet.client_quotas import LIFE_MS, LOOK_MS, SETTLE_MS, ClientQuotas
from fleet.database import identities
from fleet.database.identities import Quotas
from fleet.database.store import Database, open_database

START_MS = 1_800_000_000_000
OLD, NEW = (Ed25519PrivateKey.from_private_bytes(name * 32) for name in (b"o", b"n"))


class Office:
    """A controller with a broker that keeps what is published, and a clock that the test sets."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now_ms = START_MS
        self.kept: dict[str, bytes] = {}
        self.num_posts = 0
        self.is_up = True
        self.start(OLD)

    def start(self, *keys: Ed25519PrivateKey) -> None:
        """As when the controller starts, or connects."""
        self.quotas = ClientQuotas(self.database, keys, self.post, lambda: self.now_ms)
        self.connect()

    def connect(self) -> None:
        """There is a new connection, and the broker says what it keeps."""
        self.quotas.begin()
        for client, payload in self.kept.items():
            self.quotas.heard(client, payload)

    def post(self, topic: Topic, payload: bytes) -> bool:
        """Publishes."""
        assert isinstance(topic, ClientQuota)
        if self.is_up:
            self.num_posts += 1
            self.kept[topic.client] = payload
            if not payload:
                del self.kept[topic.client]
        return self.is_up

    def set(self, client: str, quotas: Quotas) -> None:
        """As `fleet client create` does."""
        with self.database.write() as connection:
            if identities.find_identity(connection, client) is None:
                identities.add_identity(connection, client, "client", self.now_ms)
            identities.set_quotas(connection, client, quotas)

    def sync(self) -> int:
        """Looks once; returns how much was published."""
        before = self.num_posts
        self.now_ms += LOOK_MS
        self.quotas.sync()
        return self.num_posts - before

    def read(self, client: str, *keys: Ed25519PrivateKey) -> Quota | None:
        """What a node that trusts these keys reads."""
        public = [key.public_key().public_bytes_raw() for key in keys or (OLD,)]
        trust = Trust({key_id(one): one for one in public})
        found: Accepted[Quota] | Refusal = verify(self.kept[client], Quota, client, None, trust, Time(self.now_ms))
        return found.document if isinstance(found, Accepted) else None


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    """With a client that has quotas and one that has none."""
    database = open_database(database_url)
    made = Office(database)
    made.set("kiosk", Quotas(60, 1000))
    made.set("lamp", Quotas())
    yield made
    database.close()


def test_each_change_is_published_once(office: Office) -> None:
    """Who never had quotas needs no document; who loses them does; who is revoked leaves none."""
    assert office.sync() == 1
    quota = office.read("kiosk")
    assert quota is not None
    assert (quota.requests_per_minute, quota.tokens_per_day) == (60, 1000)
    assert office.sync() == 0
    office.set("kiosk", Quotas())
    assert office.sync() == 1
    lifted = office.read("kiosk")
    assert lifted is not None
    assert (lifted.requests_per_minute, lifted.tokens_per_day) == (None, None)
    assert lifted.rev > quota.rev
    with office.database.write() as connection:
        identities.revoke_identity(connection, "kiosk", office.now_ms)
    assert office.sync() == 1
    assert office.kept == {}


def test_a_connection_repeats_nothing_that_the_broker_keeps(office: Office) -> None:
    """Nor does a new start. What a broker lost, or could not be told, comes to it."""
    office.is_up = False
    assert office.sync() == 0
    office.is_up = True
    assert office.sync() == 1
    office.connect()
    assert office.sync() == 0
    office.start(OLD)
    assert office.sync() == 0
    office.kept = {}
    office.connect()
    assert office.sync() == 1


def test_nothing_is_published_before_the_broker_has_said_what_it_keeps(office: Office) -> None:
    """It may be everything."""
    office.quotas.begin()
    office.now_ms += SETTLE_MS - LOOK_MS - 1
    assert office.sync() == 0
    assert office.sync() == 1


def test_documents_are_made_anew_before_they_end_and_with_new_keys(office: Office) -> None:
    """Also when the controller's clock was set back: a node goes by the revision."""
    office.sync()
    first = office.read("kiosk")
    office.now_ms += LIFE_MS // 2 + 1
    assert office.sync() == 1
    second = office.read("kiosk")
    office.start(OLD, NEW)
    assert office.sync() == 1
    assert office.read("kiosk", NEW) is not None
    office.now_ms = START_MS
    office.set("kiosk", Quotas(5))
    office.connect()
    assert office.sync() == 1
    last = office.read("kiosk")
    assert first is not None
    assert second is not None
    assert last is not None
    assert first.rev < second.rev < last.rev


def test_what_is_no_document_is_replaced(office: Office) -> None:
    """Whoever wrote it."""
    office.sync()
    with pytest.raises(msgspec.MsgspecError):
        office.quotas.heard("kiosk", b"{}")
    assert office.sync() == 1
