"""Logs hold no text of senders."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from agent.config import Log
from agent.logs import describe, setup_logs

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
    """Type and place, because messages quote what they failed on."""
    with pytest.raises(ValueError, match=CANARY) as caught:
        fail()
    described = describe(caught.value)
    assert described["error"] == "ValueError"
    assert "fail" in described["where"]
    assert CANARY not in json.dumps(described)


def test_what_libraries_log_passes_without_its_text(fresh_logs: None, capfd: pytest.CaptureFixture[str]) -> None:
    """A library's warning is a line with its name and place; message, arguments and exception stay out."""
    setup_logs(Log(level="debug", format="json"))
    try:
        fail()
    except ValueError:
        logging.getLogger("somelib").exception("could not handle %s", CANARY)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["library"], line["error"]) for line in lines] == [("somelib", "ValueError")]
    assert CANARY not in json.dumps(lines)
