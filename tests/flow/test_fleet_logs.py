"""The controller's log: what its messages promise is there, and nothing that anybody said to a model."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from structlog.typing import EventDict

from fleet.api.forms import Refusal
from fleet.broker_url import BrokerUrl
from fleet.database.identities import write_audit
from fleet.database.store import open_database
from fleet.errors import BrokerError, FolderError
from fleet.link import open_link
from fleet.logs import describe, setup_logs
from fleet.roles import Caller
from fleet.web.app import make_app
from fleet.web.endpoint import Call, Endpoint
from tests.fakes.headquarters import Headquarters
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.waiting import until

CANARY = "the-canary-sings-at-dawn"
SENTENCE = "cannot reach the broker at home:8883: no such host; start it"


@pytest.fixture
def fresh_logs() -> Iterator[None]:
    """Puts the logging of this process back afterwards."""
    handlers = logging.root.handlers[:]
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers


@pytest.fixture
def headquarters(tmp_path: Path) -> Iterator[Headquarters]:
    """A controller that knows nobody."""
    made = Headquarters(f"sqlite:///{tmp_path / 'fleet.db'}")
    yield made
    made.close()


def fail(*_: object) -> None:
    """A fault that quotes what it failed on."""
    json.loads(f"[{CANARY}")


def caught() -> Exception:
    """The exception of that fault."""
    try:
        fail()
    except ValueError as error:
        return error
    raise AssertionError("it did not fail")


def test_an_error_of_ours_is_told_in_its_sentence() -> None:
    """It is written to be shown."""
    assert describe(FolderError(SENTENCE)) == {"error": "FolderError", "why": SENTENCE}


def test_another_error_is_told_by_type_and_place() -> None:
    """The file and line that raised it; its text can quote a prompt."""
    described = describe(caught())
    assert described["error"] == "JSONDecodeError"
    assert described["where"].startswith("json/decoder.py:")
    assert CANARY not in str(described)


def test_an_error_of_the_database_has_its_code_and_our_line(database_url: str) -> None:
    """What it says itself can hold rows, so the code has to tell a full disk from a missing table."""
    database = open_database(database_url)
    with database.write() as connection:
        connection.execute(text("DROP TABLE audit"))
    with pytest.raises(SQLAlchemyError) as raised, database.write() as connection:
        write_audit(connection, 1, "ann", CANARY, "x")
    database.close()
    described = describe(raised.value)
    assert described["code"] in ("SQLITE_ERROR", "42P01")
    assert " < database/identities.py:" in described["where"]
    assert CANARY not in str(described)


def test_a_fault_that_a_library_reports_has_its_own_place(fresh_logs: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Uvicorn reports a fault of ours from a line of its own, which tells nobody anything."""
    setup_logs()
    logging.getLogger("uvicorn.error").error("Exception in %s", CANARY, exc_info=caught())
    logging.getLogger("somelib").warning("no exception, but %s", CANARY)
    fault, plain = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (fault["error"], fault["where"].split(":")[0]) == ("JSONDecodeError", "json/decoder.py")
    assert plain["where"].startswith("test_fleet_logs:")
    assert CANARY not in str((fault, plain))


def records_of(error: Exception) -> list[EventDict]:
    """What is logged when a request ends with an error."""

    def work(_call: Call) -> None:
        raise error

    endpoint = Endpoint(method="GET", path="/x", summary="x", least="viewer", work=work, answer=Refusal)
    app = make_app([endpoint], lambda _token: Caller("ann", "admin"), [], dict)
    with capture_logs() as records:
        assert TestClient(app).get("/x", headers={"Authorization": "Bearer t"}).status_code == 503
    return records


def test_a_request_that_cannot_be_served_says_why_in_the_log() -> None:
    """Our sentence, or of the database what its refusal promises: where and with what code."""
    (ours,) = records_of(BrokerError(SENTENCE))
    assert (ours["event"], ours["error"], ours["why"]) == ("refused", "BrokerError", SENTENCE)
    (databases,) = records_of(SQLAlchemyError(CANARY))
    assert databases["where"].startswith("flow/test_fleet_logs.py:")
    assert CANARY not in str(databases)


def test_a_fault_of_the_intake_is_told_with_its_place(
    headquarters: Headquarters, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, so the log is all that is left of it."""
    ended = threading.Event()
    monkeypatch.setattr(headquarters.steering, "review", fail)
    with capture_logs() as records, open_link(BrokerUrl(broker.host, broker.port)) as link:
        thread = threading.Thread(target=headquarters.listening.run, args=(link, ended))
        thread.start()
        try:
            found = until(lambda: [one for one in records if one["event"].startswith("the intake failed")], "log line")
        finally:
            monkeypatch.undo()
            ended.set()
            thread.join()
    assert found[0]["error"] == "JSONDecodeError"
    assert " < fleet/intake.py:" in found[0]["where"]
    assert CANARY not in str(records)


def test_what_the_intake_cannot_write_is_told_in_its_sentence(
    headquarters: Headquarters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours has one."""

    def refuse() -> None:
        raise FolderError(SENTENCE)

    monkeypatch.setattr(headquarters.steering, "review", refuse)
    with capture_logs() as records:
        assert not headquarters.intake.flush()
    assert records[0]["why"] == SENTENCE
