"""What the machine is like at a moment, as a row of telemetry. What has no meter is None, never a guess."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from agent.energy import Ina3221, Meter, find_meter
from agent.machine import available_bytes, number_in, words_in
from contract.telemetry import SysRow

SYS = Path("/sys")
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MIB = 2**20
HOTTEST_C, COLDEST_C = 150.0, -60.0  # what lies outside is a sensor that is not connected
LOOPBACK = "lo"


class Readings:
    """Reads one machine. Counters are told as what they grew by since the row before."""

    def __init__(
        self,
        state_dir: Path,
        *,
        proc: Path = PROC,
        sys: Path = SYS,
        cgroups: Path = CGROUPS,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state_dir = state_dir
        self._proc = proc
        self._sys = sys
        self._cgroups = cgroups
        self._monotonic_s = monotonic_s
        self._meter: Meter | None = find_meter(sys)
        self._at_s = monotonic_s()
        self._before = self._counters()
        self._busy = _busy_s()

    @property
    def look_often(self) -> Callable[[], None] | None:
        """What is to be called every `energy.POWER_LOOK_S`, if the energy meter needs it."""
        return self._meter.look if isinstance(self._meter, Ina3221) else None

    def row(self) -> SysRow:
        """The machine now. May wait for slow sensors; for a thread."""
        now_s = self._monotonic_s()
        passed_s, self._at_s = max(0.001, now_s - self._at_s), now_s
        before, self._before = self._before, self._counters()
        grown = {name: self._before[name] - before[name] for name in self._before.keys() & before.keys()}
        joules = self._meter.joules() if self._meter else None
        return SysRow(
            age_s=0,
            cpu_percent=self._cpu_percent(),
            cpu_stalled_percent=_percent(grown.get("cpu_stalled_us"), passed_s * 1e6),
            ram_available_mib=available_bytes(self._proc, self._cgroups) // MIB,
            memory_stalled_percent=_percent(grown.get("memory_stalled_us"), passed_s * 1e6),
            temperature_c=self._temperature_c(),
            throttled_percent=_percent(grown.get("throttled_ms"), passed_s * 1e3),
            disk_free_mib=self.disk_free_mib(),
            received_kib=_kib(grown.get("received_bytes")),
            sent_kib=_kib(grown.get("sent_bytes")),
            energy_joules=None if joules is None else round(joules, 1),
            energy_source=self._meter.source if self._meter and joules is not None else None,
        )

    def disk_free_mib(self) -> int | None:
        """What is free where the state directory is."""
        try:
            return shutil.disk_usage(self._state_dir).free // MIB
        except OSError:
            return None

    def _cpu_percent(self) -> float | None:
        before, self._busy = self._busy, _busy_s()
        total = self._busy[1] - before[1]
        return _percent(self._busy[0] - before[0], total) if total > 0 else None

    def _counters(self) -> dict[str, int]:
        """All counters that can be read."""
        found = {
            "cpu_stalled_us": self._stalled_us("cpu"),
            "memory_stalled_us": self._stalled_us("memory"),
            "throttled_ms": self._throttled_ms(),
        }
        links = [link for name, link in psutil.net_io_counters(pernic=True).items() if name != LOOPBACK]
        if links:
            found["received_bytes"] = sum(link.bytes_recv for link in links)
            found["sent_bytes"] = sum(link.bytes_sent for link in links)
        return {name: number for name, number in found.items() if number is not None}

    def _stalled_us(self, what: str) -> int | None:
        """For how long something waited (pressure-stall information), since the start of the machine."""
        words = words_in(self._proc / "pressure" / what)  # "some avg10=… avg60=… avg300=… total=…", then "full …"
        if not words or words[0] != "some" or not words[4].startswith("total="):
            return None
        return int(words[4].removeprefix("total="))

    def _throttled_ms(self) -> int | None:
        """For how long the core that was slowed down most was, to cool it."""
        folder = self._sys / "devices/system/cpu"
        counters = [number_in(file) for file in folder.glob("cpu*/thermal_throttle/core_throttle_total_time_ms")]
        return max((number for number in counters if number is not None), default=None)

    def _temperature_c(self) -> float | None:
        files = [*self._sys.glob("class/thermal/thermal_zone*/temp"), *self._sys.glob("class/hwmon/hwmon*/temp*_input")]
        found = [millidegrees / 1000 for file in files if (millidegrees := number_in(file)) is not None]
        return max((celsius for celsius in found if COLDEST_C < celsius < HOTTEST_C), default=None)


def _busy_s() -> tuple[float, float]:
    """Processor time of all cores since the start of the machine: in which they worked, and all of it."""
    times: Any = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is in user's too.
    total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total_s - idle_s, total_s


def _percent(part: float | None, whole: float) -> float | None:
    return None if part is None else round(min(100.0, max(0.0, 100 * part / whole)), 1)


def _kib(num_bytes: int | None) -> int | None:
    # A link that went away takes its counter with it.
    return None if num_bytes is None else max(0, num_bytes) // 1024
