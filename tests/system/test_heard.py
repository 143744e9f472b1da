"""What nodes say reaches the database of a running controller, through mosquitto, whatever is killed."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from contract import topics
from contract.presence import NodeState
from contract.signed import Accepted, Time, Trust, key_id, verify
from contract.steering import Desired, Event, Reported
from contract.telemetry import pack_sys
from fleet.api.nodes import Detail
from fleet.api.steering import WishChange
from fleet.broker_url import BrokerUrl
from fleet.controller import now_ms
from fleet.database.store import open_database
from fleet.inventory import Inventory
from fleet.link import Link, open_link
from fleet.presence import HOLDING
from fleet.steering import Steering
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.headquarters import FIT, card
from tests.fakes.waiting import until


@pytest.fixture
def controller(tmp_path: Path, database_url: str) -> Iterator[ControllerProcess]:
    """A controller that runs, on each database."""
    made = ControllerProcess(tmp_path, database_url).ready()
    yield made
    made.stop()


@contextmanager
def node(controller: ControllerProcess, name: str = "n1") -> Iterator[Link]:
    """A node's connection to the broker, with its certificate."""
    pair = controller.folder.authority("node").login(name, datetime.now(UTC), timedelta(days=1))
    file = controller.path / f"{name}.pem"
    file.write_bytes(pair.key_pem + pair.certificate_pem)
    context = controller.tls()
    context.load_cert_chain(file)
    with open_link(BrokerUrl(HOST, controller.folder.port("node"), tls=True), context) as link:
        yield link


def say(link: Link, topic: topics.Topic, message: msgspec.Struct) -> None:
    """Publishes as a node does."""
    link.publish(topic.path("home"), msgspec.json.encode(message), qos=topic.QOS, retain=topic.RETAINED)


def happen(link: Link, name: str) -> None:
    """An event."""
    say(link, topics.NodeEvent("n1", "alert"), Event(uuid.uuid4().hex, now_ms(), name, {}))


def seen(controller: ControllerProcess, fits: Callable[[Detail], bool], what: str) -> Detail:
    """What the database has of n1, as soon as it fits."""
    database = open_database(controller.folder.database_url)

    def look() -> Detail | None:
        inventory = Inventory(database, now_ms)
        inventory.load()
        detail = inventory.detail("n1")
        return detail if detail and fits(detail) else None

    try:
        return until(look, what)
    finally:
        database.close()


def events(detail: Detail) -> list[str]:
    """Names of the events, sorted."""
    return sorted(one.event.name for one in detail.events)


def test_what_a_node_says_is_stored(controller: ControllerProcess) -> None:
    """Presence, card, report, telemetry and events."""
    with node(controller) as link:
        say(link, topics.NodeStatus("n1"), NodeState("online", 1, now_ms()))
        say(link, topics.NodeCard("n1"), card("n1", site="store-7"))
        say(link, topics.NodeReported("n1"), Reported(rev=3, phase="confirmed", active="smol@1"))
        say(link, topics.NodeTelemetry("n1", "sys"), pack_sys("r1", 0, now_ms(), [FIT], 2000))
        happen(link, "agent_started")
        found = seen(controller, lambda d: bool(d.sys and d.events and d.record.rev), "telemetry, report and event")
    assert (found.record.state, found.record.site, found.record.active) == ("online", "store-7", "smol@1")
    assert (found.sys, events(found)) == (FIT, ["agent_started"])


def test_no_event_is_lost_while_the_controller_is_killed(controller: ControllerProcess) -> None:
    """What it had heard and not written, and what was said while it was away, comes to the next one, once."""
    names = [f"event_{number:03d}" for number in range(100)]
    with node(controller) as link:
        for name in names[:60]:
            happen(link, name)
        controller.stop(signal.SIGKILL)
        for name in names[60:]:
            happen(link, name)
        controller.ready()
        database = open_database(controller.folder.database_url)

        def stored() -> bool:
            with database.read() as connection:
                found = connection.exec_driver_sql("SELECT name FROM events WHERE node = 'n1' ORDER BY name")
                return [row.name for row in found] == names

        until(stored, "all events")
        database.close()


def test_only_events_wait_for_the_controller(controller: ControllerProcess) -> None:
    """Reports come at each heartbeat: they would take the room of events, and the last is retained anyway."""
    with node(controller) as link:
        controller.stop(signal.SIGKILL)
        for rev in range(5):
            say(link, topics.NodeReported("n1"), Reported(rev=rev, phase="confirmed"))
        happen(link, "agent_started")
        tls = controller.tls()
        tls.load_cert_chain(*controller.folder.key_pair("mqtt"))
        broker = BrokerUrl(HOST, controller.folder.port("node"), tls=True)
        with open_link(broker, tls, holding=HOLDING) as session:
            first = session.next(20)
        assert first
        assert first.topic == topics.NodeEvent("n1", "alert").path("home")
        controller.ready()
        seen(controller, lambda d: d.record.rev == 4 and len(d.events) == 1, "the last report and the event")


def test_presence_follows_a_broker_that_restarts(controller: ControllerProcess) -> None:
    """A death that the controller could not hear of, because the broker was away too, is heard afterwards."""
    with node(controller) as link:
        say(link, topics.NodeStatus("n1"), NodeState("online", 1, now_ms()))
        seen(controller, lambda d: d.record.state == "online", "presence")
        controller.stop()
        with controller.broker_alone(), node(controller, "n1") as again:
            say(again, topics.NodeStatus("n1"), NodeState("offline", 2, now_ms()))
        controller.ready()
        seen(controller, lambda d: d.record.state == "offline", "goodbye")


def test_a_wish_that_was_stored_goes_out_after_a_crash(controller: ControllerProcess) -> None:
    """It was killed between writing and publishing: the next one publishes it, retained, and its key signs."""
    controller.stop(signal.SIGKILL)
    database = open_database(controller.folder.database_url)
    inventory = Inventory(database, now_ms)
    inventory.node("n1")
    keys = controller.folder.signing_keys()
    steering = Steering(database, inventory, keys, lambda *_: False, now_ms, lambda *_: False)
    steering.wish(["n1"], WishChange(settings={"log.level": "debug"}), "test")
    database.close()
    controller.ready()
    public = controller.folder.signing_keys()[0].public_key().public_bytes_raw()
    with node(controller) as link:
        link.subscribe({topics.NodeDesired("n1").path("home"): 1})
        incoming = link.next(30)
        assert incoming
        trust = Trust({key_id(public): public})
        taken = verify(incoming.payload, Desired, "n1", None, trust, Time(now_ms()))
    assert isinstance(taken, Accepted)
    assert (taken.document.rev, taken.document.settings) == (1, {"log.level": "debug"})
