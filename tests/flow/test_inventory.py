"""What nodes say, in the controller's memory and in its database, on each database."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from contract import topics
from contract.presence import NodeState
from contract.steering import Event, Reported, Telemetry
from contract.telemetry import pack_sys
from fleet.database import identities
from fleet.database.tables import events, telemetry
from fleet.query import parse
from tests.fakes.headquarters import BUSY, FIT, START_MS, Headquarters, card


@pytest.fixture
def headquarters(database_url: str) -> Iterator[Headquarters]:
    """A controller that knows nobody."""
    made = Headquarters(database_url)
    yield made
    made.close()


def state(headquarters: Headquarters, node: str = "n1") -> str:
    """A node's presence."""
    return headquarters.inventory.nodes[node].state


def count(headquarters: Headquarters, table: object) -> int:
    """The number of rows."""
    with headquarters.database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def test_a_node_comes_and_goes(headquarters: Headquarters) -> None:
    """Its presence is what it said last, or what the broker said of it."""
    headquarters.join("n1", site="store-7", labels={"ring": "canary"})
    assert state(headquarters) == "online"
    assert [one.node for one in headquarters.inventory.find(parse("ring=canary and online", {"ring"}))] == ["n1"]
    headquarters.status("n1", "offline", sess=1)
    assert headquarters.inventory.find(parse("online")) == []
    assert headquarters.inventory.labels() == {"ring"}


def test_the_will_of_an_older_connection_changes_nothing(headquarters: Headquarters) -> None:
    """A node that came back before the broker missed it is there; a will of this connection counts."""
    headquarters.status("n1", sess=7)
    headquarters.status("n1", "lost", sess=6)
    assert state(headquarters) == "online"
    headquarters.status("n1", "lost", sess=7)
    assert state(headquarters) == "lost"
    headquarters.status("n1", sess=1)  # a disk was replaced, and its count with it
    assert state(headquarters) == "online"


def test_everything_is_there_after_a_restart(headquarters: Headquarters, database_url: str) -> None:
    """Of what a node said and measured nothing has to be said again."""
    headquarters.join("n1", site="store-7", labels={"ring": "canary"})
    headquarters.report("n1", 4, active="smol@1")
    headquarters.infer("n1", BUSY)
    headquarters.event("n1", "agent_started", {"versions": {}})
    before = headquarters.inventory.detail("n1")
    again = Headquarters(database_url)
    assert again.inventory.detail("n1") == before
    assert before
    assert (before.sys, before.gaps) == (FIT, {"sys": 0, "infer": 0})
    assert [one.event.name for one in before.events] == ["agent_started"]
    assert before.infer
    assert before.infer.ok == BUSY.ok
    again.close()


def test_what_comes_twice_counts_once(headquarters: Headquarters, database_url: str) -> None:
    """Events by their eid and batches by their number, also after a restart."""
    batch = pack_sys("r1", 0, START_MS, [FIT], 2000)

    def say_twice(hearer: Headquarters) -> None:
        for _ in range(2):
            hearer.event("n1", "engine_died", {"death": "crash"}, eid="same")
            hearer.telemetry("n1", "sys", batch)

    say_twice(headquarters)
    again = Headquarters(database_url)
    say_twice(again)
    again.close()
    assert (count(headquarters, events), count(headquarters, telemetry)) == (1, 1)
    headquarters.event("n2", "engine_died", {"death": "crash"}, eid="same")  # another node's is another event
    assert count(headquarters, events) == 2


def test_gaps_are_visible_until_they_are_filled(headquarters: Headquarters) -> None:
    """A batch that is missing shows, and one that comes late closes the gap."""
    for seq in (0, 1, 4):
        headquarters.telemetry("n1", "sys", pack_sys("r1", seq, START_MS, [FIT], 2000))
    assert headquarters.inventory.summary().num_gaps == 2
    headquarters.telemetry("n1", "sys", pack_sys("r1", 3, START_MS, [FIT], 2000))
    assert headquarters.inventory.summary().num_gaps == 1


def test_a_node_that_was_deleted_is_forgotten(headquarters: Headquarters, database_url: str) -> None:
    """An empty retained status takes it out, for good."""
    headquarters.join("n1")
    headquarters.hear(topics.NodeStatus("n1"), b"")
    assert headquarters.inventory.records() == []
    again = Headquarters(database_url)
    assert again.inventory.records() == []
    again.close()


HUGE = 2**63
BAD: tuple[tuple[topics.Topic, bytes | msgspec.Struct], ...] = (
    (topics.NodeStatus("n1"), b"not JSON"),
    (topics.NodeStatus("n1"), b'{"s":"fine","sess":1,"ts":1}'),
    (topics.NodeStatus("n1"), b'{"s":"online","sess":1,"ts":1,"more":"\xff"}'),
    (topics.NodeCard("n1"), card("n2")),
    (topics.NodeCard("n1"), card("n1", labels={"a": "x" * 70_000})),
    (topics.NodeReported("n1"), Reported(rev=HUGE, phase="idle")),
    (topics.NodeReported("n1"), b"[" * 10_000),
    (topics.NodeEvent("n1", "alert"), Event("", 1, "x", {})),
    (topics.NodeEvent("n1", "alert"), Event("a\0b", 1, "x", {})),
    (topics.NodeEvent("n1", "alert"), Event("e", 1, "x" * 65, {})),
    (topics.NodeEvent("n1", "cmd"), Event("e", 1, "logs", {"status": "fine"})),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=HUGE, ts=1, fields=["age_s"], rows=[[0]])),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=0, ts=1, fields=["age_s"], rows=[[10**15]])),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=0, ts=1, fields=["age_s"], rows=[[0, 1]])),
    (topics.NodeTelemetry("n1", "infer"), Telemetry(run="r", seq=0, ts=1, fields=["age_s"], rows=[["x"]])),
)  # fmt: skip


def test_what_cannot_be_read_is_counted_and_left_out(
    headquarters: Headquarters, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends nothing, is in the log once for each node, and the next message counts."""
    for number, (topic, message) in enumerate(BAD, 1):
        headquarters.hear(topic, message)
        assert headquarters.inventory.num_bad_messages == number, (topic, message)
    assert (count(headquarters, events), count(headquarters, telemetry)) == (0, 0)
    assert "".join(capfd.readouterr()).count("cannot read a message") == 1
    headquarters.join("n1")
    assert state(headquarters) == "online"


ODD: tuple[tuple[topics.Topic, bytes | msgspec.Struct], ...] = (
    (topics.NodeStatus("n1"), NodeState("online", HUGE, HUGE)),
    (topics.NodeCard("n1"), card("n1", site="a\0b", labels={"é\0": "\U0001f600"})),
    (topics.NodeReported("n1"), Reported(rev=2**53 - 1, phase="failed", error="\0", settings={"x": HUGE})),
    (topics.NodeEvent("n1", "alert"), Event("e", HUGE, "x", {"y": "\0", "z": HUGE})),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=2**53 - 1, ts=HUGE, fields=["age_s"], rows=[[0]])),
    (topics.NodeTelemetry("n1", "infer"), Telemetry(run="r", seq=0, ts=1, fields=["new", "n"], rows=[])),
    (topics.NodeTelemetry("n1", "net"), Telemetry(run="r", seq=0, ts=1, fields=[], rows=[])),
)  # fmt: skip


def test_odd_values_do_not_stop_the_writing(headquarters: Headquarters, database_url: str) -> None:
    """What a node may say, both databases can hold."""
    for topic, message in ODD:
        headquarters.hear(topic, message)
    assert headquarters.inventory.num_bad_messages == 0
    again = Headquarters(database_url)
    assert again.inventory.detail("n1") == headquarters.inventory.detail("n1")
    again.close()


def test_nothing_is_lost_while_the_database_is_away(
    headquarters: Headquarters, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """What could not be written is written later, once; meanwhile that shows."""

    def away() -> None:
        raise OperationalError("BEGIN", {}, Exception("away"))

    with monkeypatch.context() as patch:
        patch.setattr(headquarters.database, "write", away)
        with pytest.raises(AssertionError):
            headquarters.event("n1", "agent_started", {})
        assert not headquarters.inventory.summary().is_stored
    headquarters.status("n1")
    assert headquarters.inventory.summary().is_stored
    again = Headquarters(database_url)
    assert (count(again, events), state(again)) == (1, "online")
    again.close()


def test_the_summary_names_the_worst_with_their_cause(headquarters: Headquarters) -> None:
    """Lost before offline before degraded; who has a fault that shows at a glance counts too."""
    for node in ("n1", "n2", "n3", "n4", "n5"):
        headquarters.join(node)
    headquarters.status("n2", "degraded")
    headquarters.status("n3", "lost")
    headquarters.status("n4", "offline")
    headquarters.sys("n5", msgspec.structs.replace(FIT, disk_free_mib=2))
    with headquarters.database.write() as connection:
        identities.add_identity(connection, "n9", "node", START_MS)
        identities.set_key(connection, "n9", "5a" * 32)
    summary = headquarters.inventory.summary()
    assert summary.states == {"online": 2, "degraded": 1, "lost": 1, "offline": 1}
    assert [(one.node, one.cause) for one in summary.worst] == [
        ("n3", "lost"), ("n4", "stopped"), ("n2", None), ("n5", "disk_full"),
    ]  # fmt: skip
    assert (summary.num_unwell, summary.never_came, summary.heard_ms) == (4, ["n9"], START_MS)


def test_a_change_wakes_who_waits(headquarters: Headquarters) -> None:
    """All of them, from another thread."""

    async def watch() -> None:
        waiting = [asyncio.create_task(headquarters.inventory.changed()) for _ in range(3)]
        await asyncio.sleep(0)  # they begin to wait
        await asyncio.to_thread(headquarters.inventory.announce)
        await asyncio.wait_for(asyncio.gather(*waiting), 20)

    asyncio.run(watch())
