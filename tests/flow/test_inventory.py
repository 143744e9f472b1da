"""What nodes say, in the controller's memory and in its database, on each database."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from contract import topics
from contract.presence import NodeState, Speed
from contract.steering import Cell, Event, Reported, Telemetry
from contract.telemetry import SysRow, pack_sys
from fleet.api.audit import AuditFilter
from fleet.api.steering import WishChange
from fleet.causes import causes
from fleet.database import identities
from fleet.database.audit import read_audit
from fleet.database.tables import events, telemetry
from fleet.errors import ConflictError, NotFoundError, UnreachableError
from fleet.nodes import RETURN_MS
from fleet.query import parse
from fleet.readings import HOUR_MS, Readings
from fleet.retention import Retention
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


def test_who_died_with_the_broker_is_lost(headquarters: Headquarters) -> None:
    """The broker still has all as online; who is there says something in time, the others are missed everywhere."""
    for node in ("n1", "n2", "n3"):
        headquarters.join(node)
    status = headquarters.inventory.nodes["n1"].status
    assert status
    headquarters.now_ms += 1000
    headquarters.listening.begin()
    headquarters.hear(topics.NodeStatus("n1"), status, retained=True)
    headquarters.report("n1", 0, "idle")  # waited at the broker
    headquarters.now_ms += RETURN_MS - 1
    headquarters.report("n2", 0, "idle")
    headquarters.status("n3", "offline", sess=99)
    headquarters.listening.miss()
    assert headquarters.inventory.summary().states == {"online": 2, "offline": 1}
    headquarters.now_ms += 1
    headquarters.listening.miss()
    assert headquarters.inventory.summary().states == {"lost": 1, "online": 1, "offline": 1}
    assert [one.node for one in headquarters.inventory.find(parse("lost"))] == ["n1"]
    assert headquarters.why("n1") == ["lost"]
    assert not headquarters.inventory.is_online("n1")
    headquarters.report("n1", 0, "idle")  # it was there after all
    assert state(headquarters) == "online"


def test_nobody_is_missed_while_nobody_can_be_heard(headquarters: Headquarters) -> None:
    """Nor a second time for the same connection: who falls silent later is silent, which is something else."""
    headquarters.join("n1")
    headquarters.listening.miss()  # there was no connection yet
    headquarters.listening.begin()
    headquarters.now_ms += RETURN_MS // 2
    headquarters.report("n1", 0, "idle")
    for _ in range(2):
        headquarters.now_ms += RETURN_MS
        headquarters.listening.miss()
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
    assert again.inventory.summary().heard_ms == START_MS
    assert before
    assert (before.sys, before.gaps) == (FIT, {"sys": 0, "infer": 0})
    assert [(one.kind, one.event.name, one.at_ms) for one in before.events] == [("alert", "agent_started", START_MS)]
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


def revoke(headquarters: Headquarters, node: str) -> None:
    """Its identity is taken away."""
    with headquarters.database.write() as connection:
        identities.add_identity(connection, node, "node", START_MS)
        identities.revoke_identity(connection, node, START_MS)


def test_who_is_revoked_and_away_is_not_unwell(headquarters: Headquarters) -> None:
    """It is counted as that alone; one that is there in spite of it is seen."""
    for node in ("n1", "n2"):
        headquarters.join(node)
    headquarters.status("n1", "lost")
    revoke(headquarters, "n1")
    revoke(headquarters, "n2")
    summary = headquarters.inventory.summary()
    assert (summary.num_nodes, summary.num_unwell, summary.num_revoked) == (1, 0, 1)
    assert summary.states == {"online": 1}


def test_a_forgotten_node_is_gone_for_good(headquarters: Headquarters, database_url: str) -> None:
    """From memory, database and broker, also with what the broker says of that; what stays is the audit."""
    headquarters.join("n1")
    headquarters.steering.wish(["n1"], WishChange(model="smol@1"), "ann")
    headquarters.status("n1", "lost")
    revoke(headquarters, "n1")
    headquarters.posts.clear()
    headquarters.forgetting.forget("n1", "ann")
    emptied = dict(headquarters.posts)
    kinds = (topics.NodeStatus, topics.NodeCard, topics.NodeReported, topics.NodeHave, topics.NodeDesired)
    assert emptied == {kind("n1"): b"" for kind in kinds}
    for topic in emptied:
        headquarters.hear(topic, b"")
    again = Headquarters(database_url)
    for one in (headquarters, again):
        assert (one.inventory.records(), one.inventory.wishes.all()) == ([], [])
        assert not one.inventory.knows("n1")
        with pytest.raises(NotFoundError):
            one.forgetting.forget("n1", "ann")
    with headquarters.database.read() as connection:
        entries = read_audit(connection, AuditFilter(action="forget"))
    assert [(one.actor, one.subject) for one in entries] == [("ann", "n1")]
    again.close()


def test_who_may_come_is_not_forgotten(headquarters: Headquarters) -> None:
    """Nor who is there without an identity of ours, nor anybody without the broker."""
    for node in ("n1", "n2"):
        headquarters.join(node)
    with headquarters.database.write() as connection:
        identities.add_identity(connection, "n1", "node", START_MS)
    for node, why in (("n1", "fleet revoke n1"), ("n2", "it is there")):
        with pytest.raises(ConflictError, match=why):
            headquarters.forgetting.forget(node, "ann")
    headquarters.status("n2", "offline")
    headquarters.connected = False
    with pytest.raises(UnreachableError):
        headquarters.forgetting.forget("n2", "ann")
    headquarters.connected = True
    headquarters.forgetting.forget("n2", "ann")
    assert [one.node for one in headquarters.inventory.records()] == ["n1"]


LARGEST, HUGE, ENDLESS = 2**53 - 1, 2**53, 10**400
BAD: tuple[tuple[topics.Topic, bytes | msgspec.Struct], ...] = (
    (topics.NodeStatus("n1"), b"not JSON"),
    (topics.NodeStatus("n1"), b'{"s":"fine","sess":1,"ts":1}'),
    (topics.NodeStatus("n1"), b'{"s":"online","sess":1,"ts":1,"more":"\xff"}'),
    (topics.NodeStatus("n1"), NodeState("online", 1, ENDLESS)),
    (topics.NodeStatus("n1"), NodeState("online", ENDLESS, 1)),
    (topics.NodeCard("n1"), card("n2")),
    (topics.NodeCard("n1"), card("n1", ram_mib=ENDLESS)),
    (topics.NodeCard("n1"), card("n1", speed=Speed(1.0, 1e308))),
    (topics.NodeReported("n1"), Reported(rev=1, phase="fetching", within_ms=ENDLESS)),
    (topics.NodeEvent("n1", "alert"), Event("e", ENDLESS, "x", {})),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=0, ts=ENDLESS, fields=["age_s"], rows=[[0]])),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=0, ts=1, fields=["age_s", "queue"], rows=[[0, HUGE]])),
    (
        topics.NodeTelemetry("n1", "sys"),
        Telemetry(run="r", seq=0, ts=1, fields=["age_s", "temperature_c"], rows=[[0, 1e308]]),
    ),
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


def test_a_message_that_finds_a_fault_of_ours_takes_no_other_with_it(
    headquarters: Headquarters, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is counted and named with its kind; the next one counts."""

    def fail(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(headquarters.steering.commands, "take", fail)
    headquarters.event("n1", "logs", {"id": "x", "status": 200}, kind="cmd")
    headquarters.status("n1")
    assert (headquarters.inventory.num_bad_messages, state(headquarters)) == (1, "online")
    assert "KeyError: 'ours'" in "".join(capfd.readouterr())


def test_a_node_cannot_fill_the_database(headquarters: Headquarters) -> None:
    """What is too much in an hour is counted and left out, of this node alone; in the next hour it is heard again."""
    for _ in range(20):
        headquarters.event("n1", "noise", {"text": "x" * 100_000})
    rows: list[list[Cell]] = [[0]] * 3000
    for seq in range(5):
        batch = Telemetry(run="r", seq=seq, ts=1, fields=["age_s"], rows=rows)
        headquarters.telemetry("n3", "sys", batch)
    assert (count(headquarters, events), count(headquarters, telemetry)) == (10, 9000)
    assert headquarters.inventory.summary().num_bad_messages == 12
    headquarters.event("n2", "agent_started", {})
    headquarters.now_ms += HOUR_MS
    headquarters.event("n1", "agent_started", {})
    assert count(headquarters, events) == 12


def test_noise_does_not_hide_a_fault(headquarters: Headquarters) -> None:
    """However many events of no interest came after it."""
    headquarters.join("n1")
    headquarters.event("n1", "disk_low", {"free_mib": 3})
    for _ in range(1001):
        headquarters.event("n1", "noise", {})
    assert headquarters.why("n1") == ["disk_full"]


ODD: tuple[tuple[topics.Topic, bytes | msgspec.Struct], ...] = (
    (topics.NodeStatus("n1"), NodeState("online", LARGEST, LARGEST)),
    (topics.NodeCard("n1"), card("n1", site="a\0b", labels={"é\0": "\U0001f600"})),
    (topics.NodeReported("n1"), Reported(rev=LARGEST, phase="failed", error="\0", settings={"x": HUGE})),
    (topics.NodeEvent("n1", "alert"), Event("e", LARGEST, "x", {"y": "\0", "z": ENDLESS})),
    (topics.NodeEvent("n1", "alert"), Event("f", 1, "clock_wrong", {"off_s": 1e308})),
    (topics.NodeEvent("n1", "alert"), Event("g", 1, "disk_low", {"free_mib": -ENDLESS})),
    (topics.NodeTelemetry("n1", "sys"), Telemetry(run="r", seq=LARGEST, ts=LARGEST, fields=["age_s"], rows=[[0]])),
    (topics.NodeTelemetry("n1", "infer"), Telemetry(run="r", seq=0, ts=1, fields=["new", "n"], rows=[])),
    (topics.NodeTelemetry("n1", "net"), Telemetry(run="r", seq=0, ts=1, fields=[], rows=[])),
)  # fmt: skip


def test_odd_values_do_not_stop_the_answers(headquarters: Headquarters) -> None:
    """One node that says whatever it may neither hides the others nor fills a screen."""
    headquarters.join("n2")
    headquarters.status("n2", "lost")
    for topic, message in ODD:
        headquarters.hear(topic, message)
    headquarters.status("n1", "lost", sess=LARGEST)
    said = msgspec.json.encode([headquarters.inventory.summary(), causes(headquarters.inventory.evidence("n1"))])
    assert b"0" * 50 not in said
    assert [one.node for one in headquarters.inventory.summary().worst] == ["n1", "n2"]


def test_a_node_that_cannot_be_read_does_not_hide_the_others(headquarters: Headquarters) -> None:
    """It is named as what it is."""
    for node in ("n1", "n2"):
        headquarters.join(node)
        headquarters.status(node, "lost")
    headquarters.inventory.nodes["n1"].clock_ahead_ms = ENDLESS
    assert [(one.node, one.cause) for one in headquarters.inventory.summary().worst] == [
        ("n1", "unreadable"), ("n2", "lost"),
    ]  # fmt: skip


def test_what_an_older_version_stored_and_this_one_refuses_is_left_out(
    headquarters: Headquarters, database_url: str
) -> None:
    """The controller starts, and answers as if that had never been said."""
    headquarters.join("n1")
    headquarters.infer("n1", BUSY)
    headquarters.event("n1", "agent_started", {})
    endless = str(ENDLESS)
    with headquarters.database.write() as connection:
        for table, column in (("nodes", "status"), ("nodes", "card"), ("nodes", "reported"), ("series", "last")):
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = '{{\"ts\": {endless}}}'")  # noqa: S608  # ours
        connection.exec_driver_sql(f"UPDATE telemetry SET row = '{{\"age_s\": {endless}}}'")  # noqa: S608  # ours
        connection.exec_driver_sql(f"UPDATE events SET event = '{{\"ts\": {endless}}}'")  # noqa: S608  # ours
    again = Headquarters(database_url)
    detail = again.inventory.detail("n1")
    assert detail
    assert (detail.record.state, detail.card, detail.reported, detail.sys) == ("unknown", None, None, None)
    assert (detail.infer, detail.events) == (None, [])
    assert [one.node for one in again.inventory.summary().worst] == ["n1"]
    readings = Readings(again.database, again.clock)
    assert readings.rows("n1", SysRow, 0, again.now_ms + 1, 10) == []
    assert readings.latency(None, "first_token_ms", 0, again.now_ms + 1) is None
    again.now_ms += 4 * HOUR_MS
    Retention(again.database, again.clock, lambda: False).tidy()
    again.close()


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
