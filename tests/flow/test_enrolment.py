"""Tokens, enrolment, renewal and revocation, on each database."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import delete, select

from contract.enrolment import CERTIFICATE_LIFE_MS, DAY_MS, RENEWAL_GRACE_MS, Issued
from fleet.authority import revoked_serials
from fleet.beginning import begin
from fleet.database.identities import Quotas
from fleet.database.store import Database, open_database
from fleet.database.tables import audit, certificates, identities, tokens
from fleet.enrolment import Enrolment
from fleet.errors import EnrolmentError, FolderError, UsageError
from fleet.folder import DatabaseSection, Folder, write_private
from tests.fakes.controller import settings
from tests.fakes.signing_requests import request

START_MS = 1_800_000_000_000
TTL_MS = 1_800_000


class Office:
    """An enrolment with a clock that the test sets."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.now_ms = START_MS
        self.database: Database = open_database(folder.database_url)
        self.enrolment = Enrolment(folder, self.database, lambda: self.now_ms)

    def token(self, name: str = "n1") -> str:
        """A token for a node."""
        return self.enrolment.create_token("node", name, TTL_MS, actor="test")

    def enrol(self, name: str = "n1", key: ec.EllipticCurvePrivateKey | None = None) -> Issued:
        """A certificate for a node."""
        return self.enrolment.enrol(self.token(name), request(name, key))

    def count(self, table: object) -> int:
        """The number of rows."""
        with self.database.read() as connection:
            return len(connection.execute(select(table)).all())  # type: ignore[call-overload]  # any table


def certificate(issued: Issued) -> x509.Certificate:
    """The certificate itself."""
    return x509.load_pem_x509_certificate(issued.certificate.encode())


def refused(code: str, work: Callable[[], object]) -> None:
    """The work must be refused with this code."""
    with pytest.raises(EnrolmentError, match=r"^cannot ") as error:
        work()
    assert error.value.code == code


@pytest.fixture
def office(tmp_path: Path, database_url: str) -> Iterator[Office]:
    """An office in a new folder."""
    url = "" if database_url.startswith("sqlite") else database_url
    folder = begin(tmp_path / "ctl", msgspec.structs.replace(settings(), database=DatabaseSection(url=url)))
    assert folder is not None
    made = Office(folder)
    with made.database.write() as connection:  # what `fleet init` records of the controller's own
        for table in (certificates, identities, audit):
            connection.execute(delete(table))
    yield made
    made.database.close()


def test_a_token_gives_a_certificate_for_seven_days(office: Office) -> None:
    """It names the id, comes from the nodes' authority, and tells where the broker is."""
    issued = office.enrol()
    made = certificate(issued)
    made.verify_directly_issued_by(office.folder.authority("node").certificate)
    assert made.subject.rfc4514_string() == "CN=n1"
    assert (issued.id, issued.role, issued.fleet) == ("n1", "node", "home")
    assert issued.broker_port == office.folder.settings.broker.nodes_port
    assert issued.expires_ms - issued.issued_ms == CERTIFICATE_LIFE_MS
    assert made.not_valid_after_utc.timestamp() * 1000 == issued.expires_ms


def test_a_client_gets_its_own_authority_port_and_quotas(office: Office) -> None:
    """The quotas are recorded with the identity."""
    token = office.enrolment.create_token("client", "c1", TTL_MS, quotas=Quotas(60, 100_000), actor="test")
    issued = office.enrolment.enrol(token, request("c1"))
    certificate(issued).verify_directly_issued_by(office.folder.authority("client").certificate)
    assert (issued.role, issued.broker_port) == ("client", office.folder.settings.broker.clients_port)
    with office.database.read() as connection:
        row = connection.execute(select(identities.c.requests_per_minute, identities.c.tokens_per_day)).one()
    assert tuple(row) == (60, 100_000)


def test_a_node_learns_whose_signatures_count(office: Office) -> None:
    """The fleet's key; during a change, once the controller was restarted, the next one too. At renewal as well."""
    (key,) = office.folder.signing_keys()
    old = key.public_key().public_bytes_raw().hex()
    first = office.enrol()
    assert first.signing_keys == [old]
    following = Ed25519PrivateKey.generate()
    pem = following.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(office.folder.path / "controller/signing.next.key", pem)
    again = Enrolment(office.folder, office.database, lambda: office.now_ms)
    assert again.renew(certificate(first)).signing_keys == [old, following.public_key().public_bytes_raw().hex()]
    client = office.enrolment.enrol(office.enrolment.create_token("client", "c1", TTL_MS, actor="test"), request("c1"))
    assert client.signing_keys == []


def test_a_signing_key_that_is_none_is_told(office: Office) -> None:
    """Before anything is signed with it."""
    file = office.folder.path / "controller/signing.next.key"
    file.write_bytes(office.folder.authority("root").key_pem)
    with pytest.raises(FolderError, match="it is no Ed25519 key"):
        office.folder.signing_keys()
    file.write_bytes(b"nothing")
    with pytest.raises(FolderError, match=r"^cannot read .*signing\.next\.key"):
        office.folder.signing_keys()


def test_a_token_is_used_once(office: Office) -> None:
    """A replay is refused, also by who has the same key."""
    token, csr = office.token(), request("n1")
    office.enrolment.enrol(token, csr)
    refused("token_used", lambda: office.enrolment.enrol(token, csr))
    assert office.count(certificates) == 1


def test_of_a_hundred_at_once_one_gets_a_certificate(office: Office) -> None:
    """The token is used up in one statement, so it does not matter how close together they come."""
    token, results = office.token(), []
    gate = threading.Barrier(100)

    def attempt() -> None:
        csr = request("n1")
        gate.wait()
        try:
            results.append(office.enrolment.enrol(token, csr).id)
        except EnrolmentError as error:
            results.append(error.code)

    threads = [threading.Thread(target=attempt) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["n1"] + ["token_used"] * 99
    assert office.count(certificates) == 1


def test_a_token_expires(office: Office) -> None:
    """At its last millisecond it is good, and not after."""
    first, second = office.token(), office.token("n2")
    office.now_ms += TTL_MS - 1
    assert office.enrolment.enrol(first, request("n1")).id == "n1"
    office.now_ms += 1
    refused("token_expired", lambda: office.enrolment.enrol(second, request("n2")))


def test_a_token_is_for_one_id(office: Office) -> None:
    """Neither the id in it nor the name in the request can be another; it stays good for its own."""
    token = office.token()
    secret = token.rpartition(":")[2]
    refused("token_unknown", lambda: office.enrolment.enrol(f"n2:{secret}", request("n2")))
    refused("csr_name", lambda: office.enrolment.enrol(token, request("n2")))
    assert office.enrolment.enrol(token, request("n1")).id == "n1"


@pytest.mark.parametrize("token", ["", ":", "n1", "n1:", "n1:wrong", "\u00fc:x", "n1:" + "a" * 200])
def test_what_is_no_token_is_refused(office: Office, token: str) -> None:
    """Nothing of it gets anywhere."""
    office.token()
    refused("token_unknown", lambda: office.enrolment.enrol(token, request("n1")))


def test_the_database_holds_no_token(office: Office) -> None:
    """Who reads it cannot enrol with what stands there."""
    secret = office.token().rpartition(":")[2]
    with office.database.read() as connection:
        everything = [str(row) for table in (tokens, audit, identities) for row in connection.execute(select(table))]
    assert everything
    assert secret not in "".join(everything)


def test_an_id_is_a_node_or_a_client(office: Office) -> None:
    """The access rules of the broker depend on it."""
    office.token("n1")
    with pytest.raises(UsageError, match="it is a node"):
        office.enrolment.create_token("client", "n1", TTL_MS, actor="test")
    for name in ("_controller", "N1", "a/b", "+", ""):
        with pytest.raises(UsageError, match="an id is"):
            office.token(name)


def test_renewal_keeps_the_key(office: Office) -> None:
    """At half life, and up to 30 days after the end, the same key gets another seven days; then not."""
    presented = certificate(office.enrol())
    for wait_ms in (CERTIFICATE_LIFE_MS // 2, CERTIFICATE_LIFE_MS + RENEWAL_GRACE_MS):
        office.now_ms += wait_ms
        renewed = office.enrolment.renew(presented)
        assert renewed.expires_ms == office.now_ms + CERTIFICATE_LIFE_MS
        assert certificate(renewed).public_key() == presented.public_key()
        presented = certificate(renewed)
    office.now_ms += CERTIFICATE_LIFE_MS + RENEWAL_GRACE_MS + 1000
    refused("expired", lambda: office.enrolment.renew(presented))


def test_enrolling_again_ends_the_old_key(office: Office) -> None:
    """A device that was lost, and its replacement: the old certificate is on the broker's list and not renewed."""
    old = certificate(office.enrol())
    office.now_ms += DAY_MS
    new = certificate(office.enrol())
    refused("revoked", lambda: office.enrolment.renew(old))
    assert office.enrolment.renew(new).id == "n1"
    assert revoked_serials((office.folder.broker / "node.crl").read_bytes()) == {old.serial_number}


def test_who_is_revoked_gets_nothing_any_more(office: Office) -> None:
    """No renewal, no use of a token from before; the list names every certificate it had. A new token is a pardon."""
    first = certificate(office.enrol())
    second = certificate(office.enrolment.renew(first))
    token = office.token()
    assert office.enrolment.revoke("n1", actor="test") is False  # no broker runs here
    for presented in (first, second):
        refused("revoked", partial(office.enrolment.renew, presented))
    refused("token_unknown", lambda: office.enrolment.enrol(token, request("n1")))
    listed = revoked_serials((office.folder.broker / "node.crl").read_bytes())
    assert listed == {first.serial_number, second.serial_number}
    assert revoked_serials((office.folder.broker / "client.crl").read_bytes()) == set()
    again = office.enrol()
    assert office.enrolment.renew(certificate(again)).id == "n1"
    with pytest.raises(UsageError, match="no such node or client"):
        office.enrolment.revoke("n9", actor="test")


def test_a_list_that_was_not_written_is_written_later(office: Office) -> None:
    """As after a crash between the database and the file."""
    made = certificate(office.enrol())
    file = office.folder.broker / "node.crl"
    before = file.read_bytes()
    office.enrolment.revoke("n1", actor="test")
    file.write_bytes(before)
    office.enrolment.sync_lists()
    after = file.read_bytes()
    assert revoked_serials(after) == {made.serial_number}
    office.enrolment.sync_lists()
    assert file.read_bytes() == after  # nothing to do: the broker is left alone


def test_what_is_over_is_forgotten(office: Office) -> None:
    """Neither the lists nor the tables grow for ever."""
    office.enrol()
    office.enrolment.revoke("n1", actor="test")
    office.token()
    office.now_ms += CERTIFICATE_LIFE_MS + RENEWAL_GRACE_MS + TTL_MS + 1
    office.enrolment.forget_expired()
    office.enrolment.sync_lists()
    assert (office.count(tokens), office.count(certificates)) == (0, 0)
    assert revoked_serials((office.folder.broker / "node.crl").read_bytes()) == set()


def test_every_change_is_audited(office: Office) -> None:
    """With who made it, in order."""
    office.enrol()
    office.enrolment.revoke("n1", actor="olga")
    with office.database.read() as connection:
        rows = connection.execute(select(audit.c.actor, audit.c.action, audit.c.subject).order_by(audit.c.number)).all()
    assert [tuple(row) for row in rows] == [
        ("test", "token.create", "n1"),
        ("n1", "enrol", "n1"),
        ("olga", "revoke", "n1"),
    ]
