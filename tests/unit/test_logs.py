"""Logs hold no text of senders."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from agent.config import Log
from agent.logs import TAIL_BYTES, Tail, describe, set_level, setup_logs

CANARY = "the-canary-sings-at-dawn"


@pytest.fixture
def fresh_logs() -> Iterator[None]:
    """Puts the logging of this process back afterwards."""
    handlers = logging.root.handlers[:]
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers


def fail() -> None:
    """Fails on something that quotes a prompt."""
    raise ValueError(f"cannot parse {CANARY}")


def test_an_exception_is_described_without_its_message() -> None:
    """Type and place, that of the line which raised it first, because messages quote what they failed on."""
    with pytest.raises(ValueError, match=CANARY) as caught:
        fail()
    described = describe(caught.value)
    assert described["error"] == "ValueError"
    assert described["where"].startswith(f"test_logs.fail:{fail.__code__.co_firstlineno + 2} < ")
    assert CANARY not in json.dumps(described)


def test_what_libraries_log_passes_without_its_text(fresh_logs: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A line with its name, and what was raised where or who warns; message and arguments stay out."""
    setup_logs(Log(level="debug", format="json"))
    try:
        fail()
    except ValueError:
        logging.getLogger("somelib").exception("could not handle %s", CANARY)
    logging.getLogger("other").warning("never heard of %s", CANARY)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["library"], line.get("error")) for line in lines] == [("somelib", "ValueError"), ("other", None)]
    assert lines[0]["where"].startswith("test_logs.fail:")
    assert lines[1]["where"].startswith("test_logs:")
    assert CANARY not in json.dumps(lines)


def test_the_level_changes_while_it_runs(fresh_logs: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Also for loggers that were used before."""
    tail = setup_logs(Log(level="info", format="json"))
    log = structlog.get_logger()
    log.debug("one")
    log.info("two")
    set_level("debug")
    log.debug("three")
    set_level("error")
    log.warning("four")
    log.error("five")
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["two", "three", "five"]
    assert [json.loads(line)["event"] for line in tail.last(2)] == ["three", "five"]


def test_the_tail_is_bounded(fresh_logs: None) -> None:
    """The oldest lines go."""
    tail = Tail(io.StringIO())
    for number in range(3000):
        tail.write(f"{number:099}\n")
    lines = tail.last(10_000)
    assert len(lines) == TAIL_BYTES // 100
    assert lines[-1].endswith("2999")
