"""Telemetry in the database: asked for as it came and by the hour, folded and deleted in time, on each database."""

import random
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from sqlalchemy import Insert, func, select

from contract import histogram
from contract.histogram import Histogram
from contract.steering import Event
from contract.telemetry import InferRow, SysRow
from contract.topics import NodeEvent
from fleet import retention
from fleet.api.cost import Took
from fleet.api.readings import Reading
from fleet.database.readings import add_rows
from fleet.database.tables import events, hourly, telemetry
from fleet.readings import HOUR_MS, HOURLY_MS, RAW_MS, Readings
from fleet.retention import Retention, encode, fold_sys
from tests.fakes.headquarters import BUSY, FIT, START_MS, Headquarters

DAY_MS = 24 * HOUR_MS


@pytest.fixture
def headquarters(database_url: str) -> Iterator[Headquarters]:
    """A controller that knows nobody."""
    made = Headquarters(database_url, now_ms=START_MS // HOUR_MS * HOUR_MS)
    yield made
    made.close()


def readings(headquarters: Headquarters) -> Readings:
    """What is asked."""
    return Readings(headquarters.database, headquarters.clock)


def tidy(headquarters: Headquarters) -> None:
    """Folds and deletes what is due."""
    Retention(headquarters.database, headquarters.clock, lambda: False).tidy()


def count(headquarters: Headquarters, table: object) -> int:
    """The number of rows."""
    with headquarters.database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def counted(*values: float) -> str:
    """A histogram as text."""
    made = Histogram(0, {})
    for value in values:
        made.add(value)
    return histogram.encode(made)


def test_rows_are_there_as_they_came(headquarters: Headquarters) -> None:
    """With the time that they are about, the newest first, at most so many."""
    for minute in range(3):
        headquarters.now_ms += 60_000
        headquarters.sys("n1", replace(FIT, age_s=10, queue=minute))
    headquarters.sys("n2", FIT)
    start_ms = headquarters.now_ms - HOUR_MS
    found = readings(headquarters).rows("n1", SysRow, start_ms, headquarters.now_ms, 2)
    assert found == [
        Reading(headquarters.now_ms - 10_000 - 60_000 * age, replace(FIT, age_s=10, queue=2 - age)) for age in range(2)
    ]
    assert readings(headquarters).rows("n1", InferRow, start_ms, headquarters.now_ms, 2) == []


def test_quantiles_of_the_fleet_are_within_a_hundredth(headquarters: Headquarters) -> None:
    """Of many nodes, over hours that are folded and hours that are not, as of all values at once."""
    rng, everything = random.Random(5), list[float]()
    start_ms = headquarters.now_ms
    for hour in range(60):
        headquarters.now_ms = start_ms + hour * HOUR_MS + HOUR_MS // 2
        for node in ("n1", "n2", "n3"):
            values = [rng.lognormvariate(6, 1.2) for _ in range(20)]
            everything += values
            adapter = rng.choice([None, "tone@1"])
            headquarters.infer(node, replace(BUSY, ok=20, adapter=adapter, first_token_ms=counted(*values)))
        tidy(headquarters)
    found = readings(headquarters).latency(None, "first_token_ms", start_ms, headquarters.now_ms + 1)
    assert found
    assert found.num_values == len(everything)
    everything.sort()
    for part, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        assert value == pytest.approx(everything[int(part * (len(everything) - 1))], rel=0.01)
    of_two = readings(headquarters).latency(["n1", "n2"], "first_token_ms", start_ms, headquarters.now_ms + 1)
    assert of_two
    assert of_two.num_values == len(everything) * 2 // 3
    assert readings(headquarters).latency([], "first_token_ms", start_ms, headquarters.now_ms + 1) is None
    assert readings(headquarters).latency(None, "token_ms", start_ms, headquarters.now_ms + 1) is None


def test_what_answers_took_is_summed_for_nodes_with_a_meter(headquarters: Headquarters) -> None:
    """A node without one is counted and its answers are left out; what is older than asked for is not in it."""
    headquarters.sys("n1", replace(FIT, energy_joules=9_000.0))
    headquarters.infer("n1", replace(BUSY, ok=100))
    headquarters.now_ms += HOUR_MS * 2
    for _ in range(2):
        headquarters.sys("n1", replace(FIT, energy_joules=1_500.0))
    headquarters.infer("n1", replace(BUSY, ok=20, adapter="a@1"), replace(BUSY, ok=10, adapter=None))
    headquarters.sys("n2", replace(FIT, energy_joules=None))
    headquarters.infer("n2", replace(BUSY, ok=5))
    took = readings(headquarters).took(1)
    assert took == Took(
        num_nodes=2, num_metered=1, answers=35, metered_answers=30, joules=3_000.0, cloud_answers=0, cloud_nano=0
    )
    assert readings(headquarters).took(4).joules == 12_000.0


def test_an_hour_is_folded_once_and_whole(headquarters: Headquarters) -> None:
    """Sums stay exact, one row for each node, model and adapter; not before the slowest nodes have sent."""
    for minute in (20, 40, 59):
        headquarters.now_ms = START_MS // HOUR_MS * HOUR_MS + minute * 60_000
        headquarters.sys("n1", replace(FIT, queue=minute))
        headquarters.infer("n1", replace(BUSY, adapter="a@1"), replace(BUSY, adapter=None))
    tidy(headquarters)
    assert count(headquarters, hourly) == 0
    headquarters.now_ms += 3 * HOUR_MS
    for _ in range(2):
        tidy(headquarters)
    with headquarters.database.read() as connection:
        found = connection.execute(select(hourly).order_by(hourly.c.kind, hourly.c.adapter)).all()
    assert [(row.node, row.kind, row.model, row.adapter) for row in found] == [
        ("n1", "infer", "smol@1", ""), ("n1", "infer", "smol@1", "a@1"), ("n1", "sys", "", ""),
    ]  # fmt: skip
    assert f'"ok":{3 * BUSY.ok}' in found[0].row
    assert count(headquarters, telemetry) == 9  # they stay as they came for two days


def test_a_killed_fold_is_done_again(headquarters: Headquarters, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour is there whole or not at all."""
    headquarters.infer("n1", BUSY)
    headquarters.now_ms += 4 * HOUR_MS

    def killed(_table: object) -> Insert:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retention, "insert", killed)
        with pytest.raises(KeyboardInterrupt):
            tidy(headquarters)
    assert count(headquarters, hourly) == 0
    tidy(headquarters)
    assert count(headquarters, hourly) == 1


def test_everything_ends_with_its_time(headquarters: Headquarters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows after two days, hours and events after ninety; a few at a time, so that nobody waits."""
    monkeypatch.setattr(retention, "DELETED_AT_ONCE", 2)
    for node in ("n1", "n2", "n3"):
        headquarters.infer(node, BUSY)
        headquarters.sys(node, FIT)
        headquarters.hear(NodeEvent(node, "alert"), Event("e1", 1, "agent_started", {}))
    headquarters.now_ms += RAW_MS
    tidy(headquarters)
    assert [count(headquarters, table) for table in (telemetry, hourly, events)] == [6, 6, 3]
    headquarters.now_ms += 1
    tidy(headquarters)
    assert [count(headquarters, table) for table in (telemetry, hourly, events)] == [0, 6, 3]
    headquarters.now_ms += HOURLY_MS - RAW_MS
    tidy(headquarters)
    assert [count(headquarters, table) for table in (telemetry, hourly, events)] == [0, 0, 0]


def test_an_hour_of_a_machine() -> None:
    """The worst of what runs out, sums of what is counted, the mean of the rest; what has no meter has none."""
    rows = [
        SysRow(age_s=0, cpu_percent=10.0, disk_free_mib=500, temperature_c=50.0, sent_kib=10, engine="ready"),
        SysRow(age_s=0, cpu_percent=25.0, disk_free_mib=90, temperature_c=80.0, sent_kib=5, engine="broken"),
        SysRow(age_s=0, disk_free_mib=400, temperature_c=60.0),
    ]
    assert fold_sys(rows) == SysRow(
        age_s=0, cpu_percent=17.5, disk_free_mib=90, temperature_c=80.0, sent_kib=15, engine="broken"
    )


def test_many_rows_are_deleted_in_parts(headquarters: Headquarters) -> None:
    """More than fit into one transaction of the deletion."""
    row = {"node": "n1", "kind": "sys", "at_ms": headquarters.now_ms, "row": encode(FIT)}
    with headquarters.database.write() as connection:
        add_rows(connection, [row] * (retention.DELETED_AT_ONCE * 2 + 1))
    headquarters.now_ms += RAW_MS + 1
    tidy(headquarters)
    assert count(headquarters, telemetry) == 0
