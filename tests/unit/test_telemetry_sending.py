"""When a node sends what it measures. The scheduler is played: the test says when a job is due."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.readings import Readings
from agent.tally import Tally
from agent.telemetry import MAX_WAITING, Telemetry
from contract.errors import Refused
from contract.settings import TelemetryLevel
from contract.status import Status
from contract.steering import Telemetry as Batch
from contract.telemetry import EARLY_A_DAY, OVERHEAD_BYTES, PACES, InferRow, SysRow, unpack

BUSY = Refused(Status.BUSY, "queue", "cannot …")


class Scheduler:
    """APScheduler's part that is used."""

    def __init__(self) -> None:
        self.jobs: dict[str, Callable[[], Awaitable[None]]] = {}
        self.seconds: dict[str, float] = {}

    def add_job(self, job: Callable[[], Awaitable[None]], _: str, **how: Any) -> None:
        """Adds a job."""
        self.jobs[how["id"]] = job
        self.seconds[how["id"]] = how.get("seconds", 0)

    def get_job(self, name: str) -> object:
        """A job, or None."""
        return self.jobs.get(name)

    def remove_job(self, name: str) -> None:
        """Removes a job."""
        del self.jobs[name]


class Scene:
    """Telemetry whose connection and clock a test sets."""

    def __init__(self, folder: Path) -> None:
        self.scheduler, self.tally = Scheduler(), Tally()
        self.connected, self.now_s = True, 0.0
        self.sent: list[tuple[str, Batch]] = []
        self.telemetry = Telemetry(
            Readings(folder, monotonic_s=lambda: self.now_s),
            self.tally,
            self.scheduler,
            node_columns=lambda: {"queue": 1, "queue_limit": 64, "engine": "ready", "models": 1, "quarantined": 0},
            connected=lambda: self.connected,
            publish=lambda kind, data: self.sent.append((kind, msgspec.json.decode(data, type=Batch))),
            now_ms=lambda: 1_800_000_000_000 + round(self.now_s * 1000),
            monotonic_s=lambda: self.now_s,
        )

    def run(self, *names: str, after_s: float = 0) -> None:
        """Lets jobs be due."""
        for name in names:
            self.now_s += after_s
            asyncio.run(self.scheduler.jobs[name]())  # type: ignore[arg-type]  # they are coroutines

    def batches(self, kind: str) -> list[Batch]:
        """What was sent of a kind."""
        return [batch for sent, batch in self.sent if sent == kind]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """At the normal level."""
    made = Scene(tmp_path)
    made.telemetry.set_level("normal")
    return made


def test_rows_are_sent_together_with_their_age(scene: Scene) -> None:
    """Each once, numbered, within the bound."""
    for _ in range(2):
        scene.run("sample", "sample", "sample", after_s=400)
        scene.run("sys")
    first, second = scene.batches("sys")
    assert (first.seq, second.seq, first.run) == (0, 1, second.run)
    assert [row.age_s for row in unpack(first, SysRow)] == [800, 400, 0]
    pace = PACES["normal"]
    assert pace is not None
    assert all(len(msgspec.json.encode(batch)) + OVERHEAD_BYTES <= pace.sys_bytes for batch in (first, second))
    scene.run("sys")
    assert len(scene.sent) == 2


def test_counts_add_up_while_there_is_no_connection(scene: Scene) -> None:
    """And the newest rows of the machine wait, so that nothing is a gap."""
    scene.connected = False
    for _ in range(MAX_WAITING + 5):
        scene.run("sample", after_s=400)
    scene.tally.refused(BUSY)
    scene.run("sys", "infer", after_s=100)
    scene.tally.refused(BUSY)
    assert scene.sent == []
    scene.connected = True
    scene.run("sys", "infer", after_s=100)
    (sys,), (infer,) = scene.batches("sys"), scene.batches("infer")
    assert (sys.seq, infer.seq) == (0, 0)
    assert [row.busy for row in unpack(infer, InferRow)] == [2]
    scene.run("infer", after_s=100)
    assert len(scene.batches("infer")) == 1  # nothing to tell, nothing sent


@pytest.mark.parametrize("level", ["low", "normal", "high"])
def test_a_level_sets_the_pace(scene: Scene, level: TelemetryLevel) -> None:
    """While it runs; off stops all of it."""
    scene.telemetry.set_level("off")
    assert not scene.scheduler.jobs
    scene.telemetry.set_level(level)
    pace = PACES[level]
    assert pace is not None
    seconds = {name: scene.scheduler.seconds[name] for name in ("sample", "sys", "infer")}
    assert seconds == {"sample": pace.sample_s, "sys": pace.sys_s, "infer": pace.infer_s}


def test_a_connection_brings_a_batch_some_times_a_day(scene: Scene) -> None:
    """More would cost more than was promised; the regular ones go on."""
    for _ in range(EARLY_A_DAY + 3):
        scene.now_s += 600
        scene.scheduler.jobs.pop("early", None)
        scene.telemetry.connected()
        if "early" in scene.scheduler.jobs:
            scene.run("early")
    assert len(scene.sent) == EARLY_A_DAY
    scene.now_s += 24 * 3600
    scene.telemetry.connected()
    assert "early" in scene.scheduler.jobs


def test_nothing_is_sent_at_a_connection_when_it_is_off(scene: Scene) -> None:
    """Off is off."""
    scene.telemetry.set_level("off")
    scene.telemetry.connected()
    assert not scene.scheduler.jobs
