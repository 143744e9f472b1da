"""One request over a connection that stands and a broker that says nothing."""

import queue
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.mqtt5 import Properties
from contract.requests import Request
from contract.topics import ROOT, AnswerFinal, NodeRequest
from fleet.broker_url import BrokerUrl
from fleet.errors import UnreachableError
from fleet.exchange import ACK_S, Answer, Exchange
from fleet.gateway import Left, Mailbox, Said, _run
from fleet.link import Link, open_link
from tests.fakes.mosquitto import Mosquitto

FLEET, TO = "home", NodeRequest("n1", "c1")
OWN = f"{ROOT}/{FLEET}/client/c1/"
LONG_MS = 600_000


class Post(Mailbox):
    """A mailbox that tells when something is published."""

    def __init__(self, link: Link) -> None:
        super().__init__(link, OWN)
        self.published: queue.SimpleQueue[str] = queue.SimpleQueue()

    def publish(
        self, topic: str, payload: bytes, *, properties: Properties | None = None, timeout_s: float = ACK_S
    ) -> bool:
        """As a mailbox."""
        self.published.put(topic)
        return super().publish(topic, payload, properties=properties, timeout_s=timeout_s)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that a test may freeze."""
    running = Mosquitto(tmp_path).start()
    yield running
    running.stop(signal.SIGKILL)


def ask(box: Mailbox, ttl_ms: int, said: "queue.SimpleQueue[Said]") -> threading.Thread:
    """Asks in a thread, as the gateway does."""
    exchange = Exchange(box, FLEET, TO, Request(id="r1", prompt="hello", ttl_ms=ttl_ms))
    thread = threading.Thread(target=_run, args=(exchange, said.put), daemon=True)
    thread.start()
    return thread


def test_who_leaves_is_not_held_until_the_deadline(broker: Mosquitto) -> None:
    """Ten minutes in which the controller could not end, and one of its 64 places were taken."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    with open_link(BrokerUrl(broker.host, broker.port)) as link:
        broker.freeze()
        box = Post(link)
        thread = ask(box, LONG_MS, said)
        box.published.get(timeout=60)
        box.put(None)
        assert isinstance(said.get(timeout=60), Left)
        thread.join(60)
        assert not thread.is_alive()
        broker.thaw()


def test_an_answer_comes_although_the_acknowledgement_came_late(broker: Mosquitto) -> None:
    """A broker that stalls for longer than an acknowledgement is waited for has lost nothing."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    with open_link(BrokerUrl(broker.host, broker.port)) as link, open_link(BrokerUrl(broker.host, broker.port)) as node:
        node.subscribe({TO.path(FLEET): 1})
        link.subscribe({f"{OWN}#": 1})
        broker.freeze()
        box = Post(link)
        thread = ask(box, LONG_MS, said)
        for _ in range(2):  # the second one says that the first was not acknowledged
            box.published.get(timeout=60)
        broker.thaw()
        assert node.next(60) is not None
        node.publish(AnswerFinal("c1", "r1").path(FLEET), b'{"id": "r1", "status": 200, "text": "late"}')
        incoming = link.next(60)
        assert incoming is not None
        box.put(incoming)
        answer = said.get(timeout=60)
        thread.join(60)
    assert isinstance(answer, Answer)
    assert b"late" in answer.raw


def test_a_broker_that_never_acknowledges_is_named_at_the_deadline(broker: Mosquitto) -> None:
    """Not the node, which did not hear of it."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    with open_link(BrokerUrl(broker.host, broker.port)) as link:
        broker.freeze()
        ask(Post(link), 500, said).join(60)
        broker.thaw()
    error = said.get(timeout=1)
    assert isinstance(error, UnreachableError)
    assert "the broker did not acknowledge it" in str(error)


def test_a_late_acknowledgement_is_not_taken_for_anothers(broker: Mosquitto) -> None:
    """Numbers of messages are used again, so what nobody waits for any more is thrown away."""
    with open_link(BrokerUrl(broker.host, broker.port)) as link:
        broker.freeze()
        with pytest.raises(UnreachableError):
            link.publish("a", b"1", timeout_s=0.1)
        broker.thaw()
        link.publish("a", b"2")  # acknowledged in order
        assert link._acks == {}
