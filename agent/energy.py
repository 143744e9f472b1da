"""Energy meters: what the machine has used, as a meter counts it. Where there is none, there is no number."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agent.machine import number_in, words_in

MICRO = 1e-6
JOULES_PER_WH = 3600.0
POWER_LOOK_S = 2.0  # a meter of power alone is summed up; two seconds are what its own averaging hides anyway


class Meter(Protocol):
    """Counts energy."""

    source: str

    def joules(self) -> float | None:
        """What was used since the last call; None when it cannot be told."""


class Rapl:
    """Intel's and AMD's counters of the processor packages. Since 2020 the kernel lets only root read them."""

    source = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._before = [number_in(zone / "energy_uj") for zone in zones]

    @classmethod
    def find(cls, sys: Path) -> "Rapl | None":
        """The packages, if there are any that can be read."""
        zones = sorted((sys / "class/powercap").glob("intel-rapl:*"))
        packages = [
            zone for zone in zones if words_in(zone / "name")[:1] and words_in(zone / "name")[0].startswith("package")
        ]
        readable = [zone for zone in packages if number_in(zone / "energy_uj") is not None]
        return cls(readable) if readable else None

    def joules(self) -> float | None:
        """The sum over the packages. A counter that has begun anew has gone through its range once."""
        now = [number_in(zone / "energy_uj") for zone in self._zones]
        before, self._before = self._before, now
        total = 0
        for zone, old, new in zip(self._zones, before, now, strict=True):
            if old is None or new is None:
                return None
            total += new - old if new >= old else new - old + (number_in(zone / "max_energy_range_uj") or 0)
        return total * MICRO


class Battery:
    """What went out of a battery, while it discharges."""

    source = "battery"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = self._left_joules()

    @classmethod
    def find(cls, sys: Path) -> "Battery | None":
        """The first one of the system's own, if there is one."""
        for folder in sorted((sys / "class/power_supply").glob("*")):
            if words_in(folder / "type") == ["Battery"] and words_in(folder / "scope") != ["Device"]:
                return cls(folder)
        return None

    def joules(self) -> float | None:
        """None while it is charged, because a charger does not tell what passes it."""
        now = self._left_joules()
        before, self._before = self._before, now
        if before is None or now is None or now > before:
            return None
        return before - now

    def _left_joules(self) -> float | None:
        if words_in(self._folder / "status") != ["Discharging"]:
            return None
        energy_uwh = number_in(self._folder / "energy_now")
        if energy_uwh is None:
            charge_uah, voltage_uv = number_in(self._folder / "charge_now"), number_in(self._folder / "voltage_now")
            if charge_uah is None or voltage_uv is None:
                return None
            return charge_uah * MICRO * voltage_uv * MICRO * JOULES_PER_WH
        return energy_uwh * MICRO * JOULES_PER_WH


class Ina3221:
    """A power meter on the board, as on NVIDIA's Jetson. It tells power, so it is looked at often and summed up."""

    source = "ina3221"

    def __init__(self, folder: Path, channel: int, monotonic_s: Callable[[], float]) -> None:
        self._volts, self._amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        self._monotonic_s = monotonic_s
        self._at_s = monotonic_s()
        self._joules: float | None = 0.0

    @classmethod
    def find(cls, sys: Path, monotonic_s: Callable[[], float] = time.monotonic) -> "Ina3221 | None":
        """The channel at the board's input, if there is one."""
        for folder in sorted((sys / "class/hwmon").glob("hwmon*")):
            if words_in(folder / "name") == ["ina3221"]:
                for channel in (1, 2, 3):
                    if words_in(folder / f"in{channel}_label")[:1] in (["VDD_IN"], ["POM_5V_IN"]):
                        return cls(folder, channel, monotonic_s)
        return None

    def look(self) -> None:
        """Adds what was used since the last look. Called every `POWER_LOOK_S`; a longer gap cannot be told."""
        at_s, now_s = self._at_s, self._monotonic_s()
        self._at_s = now_s
        millivolts, milliamperes = number_in(self._volts), number_in(self._amperes)
        if millivolts is None or milliamperes is None or now_s - at_s > 3 * POWER_LOOK_S:
            self._joules = None
        elif self._joules is not None:
            self._joules += millivolts * milliamperes * MICRO * (now_s - at_s)

    def joules(self) -> float | None:
        """What the looks have added up to."""
        found, self._joules = self._joules, 0.0
        return found


def find_meter(sys: Path) -> Meter | None:
    """The best meter of this machine: of the whole board, of the processor, of the battery."""
    return Ina3221.find(sys) or Rapl.find(sys) or Battery.find(sys)
