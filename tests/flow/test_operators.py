"""Operators, their tokens, and the keys of clients, on each database."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from fleet.database import identities
from fleet.database.identities import Quotas
from fleet.database.store import Database, open_database
from fleet.database.tables import audit, operators
from fleet.errors import AccessError, ConflictError, NotFoundError, UsageError
from fleet.operators import Operators
from fleet.quota import OverQuota, QuotaBook
from fleet.roles import Caller

START_MS = 1_800_000_000_000
DAY_MS = 86_400_000


class Desk:
    """Operators with a clock that the test sets."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now_ms = START_MS
        self.operators = Operators(database, lambda: self.now_ms)
        self.quotas = QuotaBook(database, lambda: self.now_ms)

    def client(self, name: str, quotas: Quotas) -> None:
        """A client that never enrolled."""
        with self.database.write() as connection:
            identities.add_identity(connection, name, "client", self.now_ms)
            identities.set_quotas(connection, name, quotas)

    def revoke(self, name: str) -> None:
        """As `fleet revoke` does."""
        with self.database.write() as connection:
            identities.revoke_identity(connection, name, self.now_ms)

    def audit(self) -> list[tuple[str, str, str]]:
        """Who did what to whom."""
        with self.database.read() as connection:
            query = select(audit.c.actor, audit.c.action, audit.c.subject).order_by(audit.c.number)
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    """A desk with a new database."""
    database = open_database(database_url)
    yield Desk(database)
    database.close()


def test_a_token_says_who_and_which_role(desk: Desk) -> None:
    """What is stored of it opens nothing."""
    token = desk.operators.create("ann", "operator", None, actor="test")
    assert desk.operators.authenticate(token) == Caller("ann", "operator")
    with desk.database.read() as connection:
        row = connection.execute(select(operators)).one()
    secret = token.partition(":")[2]
    assert secret not in str(row)
    with pytest.raises(AccessError):
        desk.operators.authenticate(f"ann:{row.sha256}")
    assert desk.audit() == [("test", "operator.create", "ann")]


@pytest.mark.parametrize(
    "token", ["", ":", "ann", "ann:", "ann:x", "bob:x", "ann:ß", "\x00:x", "a" * 100_000, "ann:" + "x" * 999]
)
def test_what_is_no_token_opens_nothing(desk: Desk, token: str) -> None:
    """All are refused with the same words: nobody learns which names there are."""
    desk.operators.create("ann", "admin", None, actor="test")
    with pytest.raises(AccessError, match="unknown, revoked or expired"):
        desk.operators.authenticate(token)


def test_a_token_ends_when_it_expires_or_is_revoked(desk: Desk) -> None:
    """At the same moment; then its name is free again, and an old token stays void."""
    short = desk.operators.create("ann", "viewer", 1000, actor="test")
    desk.now_ms += 999
    desk.operators.authenticate(short)
    desk.now_ms += 1
    with pytest.raises(AccessError):
        desk.operators.authenticate(short)
    second = desk.operators.create("ann", "viewer", None, actor="test")
    desk.operators.revoke("ann", actor="root")
    for token in (short, second):
        with pytest.raises(AccessError):
            desk.operators.authenticate(token)
    with pytest.raises(NotFoundError):
        desk.operators.revoke("ann", actor="root")
    assert [one.revoked_ms for one in desk.operators.list()] == [desk.now_ms]


def test_a_name_has_one_token(desk: Desk) -> None:
    """A second one is refused unless it shall replace the first."""
    first = desk.operators.create("ann", "viewer", None, actor="test")
    with pytest.raises(ConflictError):
        desk.operators.create("ann", "admin", None, actor="test")
    desk.operators.authenticate(first)
    second = desk.operators.create("ann", "admin", None, actor="test", replace=True)
    assert desk.operators.authenticate(second).role == "admin"
    with pytest.raises(AccessError):
        desk.operators.authenticate(first)
    for name in ("", "Ann", "a:b", "_controller"):
        with pytest.raises(UsageError):
            desk.operators.create(name, "viewer", None, actor="test")


def test_of_many_who_create_one_name_at_once_one_gets_a_token(desk: Desk) -> None:
    """On both databases."""
    gate, results = threading.Barrier(8), list[str]()

    def attempt() -> None:
        gate.wait()
        try:
            results.append(desk.operators.create("ann", "viewer", None, actor="test"))
        except ConflictError:
            results.append("")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (token,) = [result for result in results if result]
    assert len(results) == 8
    desk.operators.authenticate(token)


def test_a_client_has_one_key_until_it_is_revoked(desk: Desk) -> None:
    """Revoking takes the key with it, and enrolling again does not bring it back; a new key does."""
    desk.client("lamp", Quotas())
    first = desk.operators.create_key("lamp", actor="test")
    assert desk.operators.authenticate(first) == Caller("lamp", "client")
    second = desk.operators.create_key("lamp", actor="test")
    with pytest.raises(AccessError):
        desk.operators.authenticate(first)
    desk.revoke("lamp")
    with pytest.raises(AccessError):
        desk.operators.authenticate(second)
    with desk.database.write() as connection:
        identities.set_key(connection, "lamp", "0" * 64)
    with pytest.raises(AccessError):
        desk.operators.authenticate(second)
    desk.operators.authenticate(desk.operators.create_key("lamp", actor="test"))
    with pytest.raises(NotFoundError):
        desk.operators.create_key("nobody", actor="test")


def test_an_operator_and_a_client_may_have_one_name(desk: Desk) -> None:
    """The secret tells them apart."""
    desk.client("lamp", Quotas())
    key = desk.operators.create_key("lamp", actor="test")
    token = desk.operators.create("lamp", "viewer", None, actor="test")
    assert desk.operators.authenticate(key).role == "client"
    assert desk.operators.authenticate(token).role == "viewer"


def test_tokens_of_a_day_are_counted_until_midnight(desk: Desk) -> None:
    """A new start of the controller knows them; the next day begins at 0."""
    desk.client("lamp", Quotas(tokens_per_day=100))
    for _ in range(2):
        desk.quotas.admit("lamp")
        desk.quotas.spend("lamp", 50)
    until_midnight_ms = DAY_MS - START_MS % DAY_MS
    for book in (desk.quotas, QuotaBook(desk.database, lambda: desk.now_ms)):
        with pytest.raises(OverQuota) as over:
            book.admit("lamp")
        assert over.value.retry_after_ms == until_midnight_ms
    desk.now_ms += until_midnight_ms
    desk.quotas.admit("lamp")
    desk.quotas.spend("lamp", 99)
    desk.quotas.admit("lamp")


def test_quotas_of_one_client_do_not_hold_for_others(desk: Desk) -> None:
    """Each has its own, and who has none is not held up."""
    desk.client("lamp", Quotas(requests_per_minute=1))
    desk.client("kiosk", Quotas())
    desk.quotas.admit("lamp")
    with pytest.raises(OverQuota) as over:
        desk.quotas.admit("lamp")
    assert over.value.retry_after_ms == 60_000
    for _ in range(100):
        desk.quotas.admit("kiosk")
