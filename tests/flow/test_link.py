"""The controller's link, on a real broker."""

import signal
from pathlib import Path

import pytest

from fleet.broker_url import BrokerUrl
from fleet.errors import UnreachableError
from fleet.link import open_link
from tests.fakes.mosquitto import Mosquitto


def test_a_late_acknowledgement_answers_for_nothing_else(tmp_path: Path) -> None:
    """Numbers of messages are used again, so one that nobody waits for any more is not kept."""
    broker = Mosquitto(tmp_path).start()
    with open_link(BrokerUrl(broker.host, broker.port)) as link:
        broker.send_signal(signal.SIGSTOP)
        with pytest.raises(UnreachableError):
            link.publish("a", b"1", timeout_s=0.1)
        broker.send_signal(signal.SIGCONT)
        link.publish("a", b"2")
        assert (link._acks, link._unawaited) == ({}, set())
    broker.stop()
