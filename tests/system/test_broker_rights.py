"""Who may write and read what at the broker: every role on every topic, with both protocol versions.

The table below is written from the contract, not from the code that makes the access lists. What counts is delivery: a
mosquitto grants every subscription, and a broker of version 3.1.1 acknowledges what it drops.
"""

import itertools
import queue
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from contract import topics
from contract.enrolment import Role
from contract.topics import Topic
from fleet.rights import CONTROLLER
from tests.fakes.controller import HOST, ControllerProcess

FLEET = "home"
WAIT_S = 20
_numbers = itertools.count(1)

# Each name and the authority that signed it.
PEOPLE: dict[str, Role] = {"n1": "node", "n2": "node", "n3": "node", "c1": "client", "c2": "client", CONTROLLER: "node"}
NODES = {"n1", "n2", "n3"}

# One topic of each kind (two where a node and a client could both be meant): who may write it, who may read it.
TABLE: list[tuple[Topic, set[str], set[str]]] = [
    (topics.NodeRequest("n1", "c1"), {"c1"}, {"n1"}),
    (topics.NodeRequest("n1", "n2"), {"n2"}, {"n1"}),  # handed on by a neighbour
    (topics.NodeCancel("n1", "n2"), {"n2"}, {"n1"}),
    (topics.AnswerDelta("n2", "r1"), NODES, {"n2"}),
    (topics.AnswerFinal("n2", "r1"), NODES, {"n2"}),
    (topics.NodeLoad("s1", "n1"), {"n1"}, {*NODES, CONTROLLER}),
    (topics.CloudRequest("n1"), {"n1"}, {CONTROLLER}),
    (topics.CloudDelta("n1", "r1"), {CONTROLLER}, {"n1", CONTROLLER}),
    (topics.CloudFinal("n1", "r1"), {CONTROLLER}, {"n1", CONTROLLER}),
    (topics.PoolRequest("p1", "c1"), {"c1"}, NODES),
    (topics.NodeCancel("n1", "c1"), {"c1"}, {"n1"}),
    (topics.PoolCancel("p1", "c1"), {"c1"}, NODES),
    (topics.AnswerDelta("c1", "r1"), NODES, {"c1"}),
    (topics.AnswerFinal("c1", "r1"), NODES, {"c1"}),
    (topics.PlainAnswer("c1"), NODES, {"c1"}),
    (topics.NodeStatus("n1"), {"n1", CONTROLLER}, {CONTROLLER}),
    (topics.NodeStatus("c1"), {CONTROLLER}, {CONTROLLER}),
    (topics.NodeCard("n1"), {"n1", CONTROLLER}, {CONTROLLER}),
    (topics.NodeDesired("n1"), {CONTROLLER}, {"n1", CONTROLLER}),
    (topics.NodeDesired("c1"), {CONTROLLER}, {CONTROLLER}),
    (topics.NodeReported("n1"), {"n1", CONTROLLER}, {CONTROLLER}),
    (topics.GroupPolicy("g1"), {CONTROLLER}, {*NODES, CONTROLLER}),
    (topics.ClientQuota("c1"), {CONTROLLER}, {*NODES, CONTROLLER}),
    (topics.NodeCommand("n1"), {CONTROLLER}, {"n1", CONTROLLER}),
    (topics.NodeEvent("n1", "alert"), {"n1"}, {CONTROLLER}),
    (topics.NodeTelemetry("n1", "sys"), {"n1"}, {CONTROLLER}),
    (topics.NodeHave("n1"), {"n1", CONTROLLER}, {*NODES, CONTROLLER}),
    (topics.ControllerStatus(), {CONTROLLER}, {CONTROLLER}),
    (topics.RolloutSummary("r1"), {CONTROLLER}, {CONTROLLER}),
]
PATHS = {topic.path(FLEET): (writers, readers) for topic, writers, readers in TABLE}

# What is none of the contract's is nobody's: others' fleets, the broker's own, a client's own free topic.
FOREIGN = ("shoal/v1/other/node/n1/status", "shoal/v1/home", "home/node/n1/status", "shoal/v1/home/node/n1/evt")


@dataclass
class Person:
    """A connection of somebody, and what arrives there."""

    name: str
    client: Client
    heard: "queue.SimpleQueue[tuple[str, bytes]]" = field(default_factory=queue.SimpleQueue)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes and waits for the acknowledgement, whatever it says."""
        self.client.publish(topic, payload, qos=1).wait_for_publish(WAIT_S)

    def until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """All that arrived up to a message with this payload."""
        got: list[tuple[str, bytes]] = []
        while True:
            message = self.heard.get(timeout=WAIT_S)
            if message[1] == payload:
                return got
            got.append(message)


class Hall:
    """A broker with the generated configuration, and connections to it."""

    def __init__(self, controller: ControllerProcess, place: Path) -> None:
        self.controller, self.place = controller, place
        self._open: list[Client] = []

    def enter(self, name: str, role: Role, version: MQTTProtocolVersion, *, will: str = "") -> Person:
        """Connects as somebody and subscribes to everything there is."""
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"x{next(_numbers)}", protocol=version)
        client.tls_set_context(self.tls(name, role))
        person = Person(name, client)
        ready: queue.SimpleQueue[None] = queue.SimpleQueue()

        def connected(_c: Client, _d: Any, _f: Any, reason: Any, _p: Any) -> None:
            assert not reason.is_failure, reason
            client.subscribe([("#", 1), ("$SYS/#", 1), ("$share/p1/shoal/v1/home/pool/p1/req/+", 1)])

        client.on_connect = connected
        client.on_subscribe = lambda *_: ready.put(None)
        client.on_message = lambda _c, _d, message: person.heard.put((message.topic, bytes(message.payload)))
        if will:
            client.will_set(will, b"will", qos=1, retain=True)
        client.connect(HOST, self.controller.folder.port(role), 60)
        client.loop_start()
        ready.get(timeout=WAIT_S)
        self._open.append(client)
        return person

    def tls(self, name: str, role: Role) -> ssl.SSLContext:
        """TLS with a certificate from the authority of a role."""
        pair = self.controller.folder.authority(role).login(name, datetime.now(UTC), timedelta(days=1))
        file = self.place / "login.pem"
        file.write_bytes(pair.key_pem + pair.certificate_pem)
        context = self.controller.tls()
        context.load_cert_chain(file)
        return context

    def close(self) -> None:
        """Ends all connections."""
        for client in self._open:
            client.disconnect()
            client.loop_stop()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller's broker. The controller does not run: a test speaks in its name."""
    made = ControllerProcess(tmp_path_factory.mktemp("rights"))
    with made.broker_alone():
        yield made


@pytest.fixture
def hall(controller: ControllerProcess, tmp_path: Path) -> Iterator[Hall]:
    """The broker of this test."""
    made = Hall(controller, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311], ids=["mqtt5", "mqtt3.1.1"])
def version(request: pytest.FixtureRequest) -> MQTTProtocolVersion:
    """Both protocol versions."""
    return MQTTProtocolVersion(request.param)


def test_the_table_has_every_topic() -> None:
    """A new topic needs a line here."""
    assert {type(topic) for topic, _, _ in TABLE} == set(topics.ALL)


@pytest.mark.parametrize("writer", PEOPLE)
def test_only_who_may_is_heard(hall: Hall, version: MQTTProtocolVersion, writer: str) -> None:
    """One writes everywhere, everybody listens to everything: exactly the permitted messages reach the permitted."""
    people = {name: hall.enter(name, role, version) for name, role in PEOPLE.items()}
    for path in (*PATHS, *FOREIGN):
        people[writer].publish(path, f"{writer} on {path}".encode())
    # What everybody hears last: each has one topic on which somebody may reach it.
    end = b"end of it"
    for name in ("n1", "n2", "n3"):
        people[CONTROLLER].publish(topics.NodeCommand(name).path(FLEET), end)
    for name in ("c1", "c2"):
        people["n1"].publish(topics.PlainAnswer(name).path(FLEET), end)
    people[CONTROLLER].publish(topics.ControllerStatus().path(FLEET), end)
    for name, person in people.items():
        got = {path for path, payload in person.until(end) if payload == f"{writer} on {path}".encode()}
        assert got == {path for path, (w, r) in PATHS.items() if writer in w and name in r}, name


def test_a_last_will_has_no_more_rights(hall: Hall, version: MQTTProtocolVersion) -> None:
    """What the broker says for somebody who is gone is checked like what they say themselves."""
    listener = hall.enter(CONTROLLER, "node", version)
    for name in ("c1", "n1"):
        for topic in (topics.NodeStatus("n2"), topics.NodeDesired("n1"), topics.ControllerStatus()):
            person = hall.enter(name, PEOPLE[name], version, will=topic.path(FLEET))
            person.client._sock_close()  # no goodbye
            person.client.loop_stop()
    last = hall.enter("n1", "node", version, will=topics.NodeStatus("n1").path(FLEET))
    last.client._sock_close()
    last.client.loop_stop()
    heard = []
    while (topics.NodeStatus("n1").path(FLEET), b"will") not in heard:
        heard.append(listener.heard.get(timeout=WAIT_S))
    assert [path for path, payload in heard if payload == b"will"] == [topics.NodeStatus("n1").path(FLEET)]


def test_the_authority_says_the_role(hall: Hall) -> None:
    """A certificate for clients opens nothing on the port for nodes, nor one for servers anywhere, nor none."""
    folder = hall.controller.folder
    strangers = {"no certificate": hall.controller.tls(), "a server": hall.controller.tls()}
    strangers["a server"].load_cert_chain(folder.broker / "server.crt", folder.broker / "server.key")
    roles: dict[Role, Role] = {"node": "client", "client": "node"}
    for role, other in roles.items():
        for what, context in {**strangers, f"a {other}": hall.tls("x1", other)}.items():
            assert not gets_in(context, folder.port(role)), (what, role)
        assert gets_in(hall.tls("x1", role), folder.port(role))


def gets_in(context: ssl.SSLContext, port: int) -> bool:
    """Whether the broker takes a connection."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2, client_id="stranger", reconnect_on_failure=False)
    client.tls_set_context(context)
    client.on_connect = lambda _c, _d, _f, reason, _p: answers.put(not reason.is_failure)
    client.on_disconnect = lambda *_: answers.put(False)
    try:
        client.connect(HOST, port, 60)
    except OSError:
        return False
    client.loop_start()
    try:
        return answers.get(timeout=WAIT_S)
    finally:
        client.loop_stop()
