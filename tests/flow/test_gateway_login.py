"""The certificate with which the controller asks nodes, on each database."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from sqlalchemy import select

from contract.enrolment import CERTIFICATE_LIFE_MS
from fleet.beginning import begin
from fleet.controller import now_ms
from fleet.database import identities
from fleet.database.store import Database, open_database
from fleet.database.tables import certificates
from fleet.folder import DatabaseSection, Folder
from fleet.gateway_login import renew_gateway
from tests.fakes.controller import settings


@pytest.fixture
def folder(tmp_path: Path, database_url: str) -> Folder:
    """A new controller's folder."""
    url = "" if database_url.startswith("sqlite") else database_url
    made = begin(tmp_path / "ctl", msgspec.structs.replace(settings(), database=DatabaseSection(url=url)))
    assert made is not None
    return made


@pytest.fixture
def database(folder: Folder) -> Iterator[Database]:
    """Its database."""
    opened = open_database(folder.database_url)
    yield opened
    opened.close()


def certificate(folder: Folder) -> x509.Certificate:
    """The one in the file."""
    return x509.load_pem_x509_certificate(folder.gateway_pem.read_bytes())


def good_serials(database: Database) -> list[str]:
    """Of the gateway's certificates those that are not revoked."""
    with database.read() as connection:
        good = certificates.c.identity == "gateway", certificates.c.revoked_ms.is_(None)
        query = select(certificates.c.serial).where(*good)
        return [row.serial for row in connection.execute(query)]


def test_a_new_folder_has_one_from_the_clients_authority(folder: Folder, database: Database) -> None:
    """It is recorded, and not made again before half of its life is over."""
    made = certificate(folder)
    made.verify_directly_issued_by(folder.authority("client").certificate)
    assert made.subject.rfc4514_string() == "CN=gateway"
    assert good_serials(database) == [f"{made.serial_number:x}"]
    assert not renew_gateway(folder, database, now_ms() + CERTIFICATE_LIFE_MS // 2 - 60_000)
    assert certificate(folder) == made


def test_at_half_life_there_is_a_new_one(folder: Folder, database: Database) -> None:
    """The one before is void; the file stays private."""
    before = certificate(folder)
    assert renew_gateway(folder, database, now_ms() + CERTIFICATE_LIFE_MS // 2 + 60_000)
    after = certificate(folder)
    assert after.serial_number != before.serial_number
    assert good_serials(database) == [f"{after.serial_number:x}"]
    assert oct(folder.gateway_pem.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_missing_or_broken_one_is_made_again(folder: Folder, database: Database, content: bytes | None) -> None:
    """As in a folder that is older than the gateway."""
    folder.gateway_pem.unlink()
    if content is not None:
        folder.gateway_pem.write_bytes(content)
    assert renew_gateway(folder, database, now_ms())
    assert good_serials(database) == [f"{certificate(folder).serial_number:x}"]


def test_one_that_the_database_does_not_know_or_has_revoked_is_replaced(folder: Folder, database: Database) -> None:
    """A crash between record and file leaves a file that is void."""
    with database.write() as connection:
        identities.revoke_certificates(connection, "gateway", now_ms())
    assert renew_gateway(folder, database, now_ms())
    assert good_serials(database) == [f"{certificate(folder).serial_number:x}"]
