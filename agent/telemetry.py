"""Sends what the node measures, at the pace of its level (docs/telemetry.md).

While there is no connection nothing is packed: rows of the machine wait, the newest of them, and counts add up. So a
gap in the sequence means that a batch was lost on its way.
"""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.energy import POWER_LOOK_S
from agent.readings import Readings
from agent.tally import Tally
from contract.settings import TelemetryLevel
from contract.steering import Telemetry as Batch
from contract.telemetry import DAY_S, EARLY_A_DAY, PACES, Pace, SysRow, pack_infer, pack_sys

EARLY_WITHIN_S = 5.0  # after a connection: at random, because a fleet connects together
MAX_WAITING = 64


class Telemetry:
    """Samples and sends on a scheduler."""

    def __init__(
        self,
        readings: Readings,
        tally: Tally,
        scheduler: Any,
        *,
        node_columns: Callable[[], dict[str, Any]],
        connected: Callable[[], bool],
        publish: Callable[[str, bytes], None],
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        paces: Mapping[TelemetryLevel, Pace | None] = PACES,
    ) -> None:
        """`node_columns` are those of a row that the daemon knows; `publish` takes the kind and a batch. `scheduler` is
        APScheduler's.
        """
        self._readings = readings
        self._tally = tally
        self._scheduler = scheduler
        self._node_columns = node_columns
        self._connected = connected
        self._publish = publish
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._paces = paces
        self._pace: Pace | None = None
        self._run = uuid.uuid4().hex[:16]
        self._seq = {"sys": 0, "infer": 0}
        self._rows: deque[tuple[float, SysRow]] = deque(maxlen=MAX_WAITING)
        self._counted_from_s = monotonic_s()
        self._early: deque[float] = deque(maxlen=EARLY_A_DAY)  # when batches went out of turn
        self._reading = asyncio.Lock()  # counters are told as differences, so one at a time

    def set_level(self, level: TelemetryLevel) -> None:
        """From now on at the pace of this level."""
        self._pace = pace = self._paces[level]
        self._rows.clear()
        for name in ("sample", "sys", "infer", "power"):
            if self._scheduler.get_job(name):
                self._scheduler.remove_job(name)
        if pace is None:
            return
        self._every(pace.sample_s, "sample", self._sample)
        self._every(pace.sys_s, "sys", self._send_sys)
        self._every(pace.infer_s, "infer", self._send_infer)
        if look := self._readings.look_often:
            self._every(POWER_LOOK_S, "power", look)

    def connected(self) -> None:
        """A connection was made: whoever listens may know nothing of this node yet."""
        now_s = self._monotonic_s()
        is_spent = len(self._early) == EARLY_A_DAY and now_s - self._early[0] < DAY_S
        if self._pace is not None and not is_spent:
            self._early.append(now_s)
            at = datetime.now(UTC) + timedelta(seconds=random.uniform(0, EARLY_WITHIN_S))  # jitter is no secret
            self._scheduler.add_job(self._send_early, "date", run_date=at, id="early", replace_existing=True)

    def _every(self, seconds: float, name: str, job: Callable[[], Any]) -> None:
        self._scheduler.add_job(job, "interval", seconds=seconds, id=name)

    async def _send_early(self) -> None:
        await self._sample()
        await self._send_sys()

    async def _sample(self) -> None:
        async with self._reading:
            row = await asyncio.to_thread(self._readings.row)
            self._rows.append((self._monotonic_s(), replace(row, **self._node_columns())))

    async def _send_sys(self) -> None:
        if self._pace is None or not self._rows or not self._connected():
            return
        now_s = self._monotonic_s()
        rows = [replace(row, age_s=round(now_s - at_s)) for at_s, row in self._rows]
        self._rows.clear()
        self._send("sys", pack_sys(self._run, self._seq["sys"], self._now_ms(), rows, self._pace.sys_bytes))

    async def _send_infer(self) -> None:
        if self._pace is None or not self._connected():
            return
        from_s, self._counted_from_s = self._counted_from_s, self._monotonic_s()
        rows = self._tally.take(round(self._counted_from_s - from_s))
        if rows:
            self._send("infer", pack_infer(self._run, self._seq["infer"], self._now_ms(), rows, self._pace.infer_bytes))

    def _send(self, kind: str, batch: Batch) -> None:
        self._seq[kind] += 1
        self._publish(kind, msgspec.json.encode(batch))
