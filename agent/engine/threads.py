"""How many threads compute: as many as the machine has cores free of other work.

Two threads on a machine of two cores whose other work takes one wait for each other at every node of a graph: an eighth
of the speed with endless spinning, half with bounded spinning, while one thread alone keeps nearly two thirds of it.
"""

import os
import resource
from pathlib import Path
from typing import NamedTuple

PERIOD_S = 0.5
# Others must leave this much of a further core unused before a thread is added, and take as much before one goes.
SLACK_CORES = 0.35
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Threads:
    """Watches the load while the engine works. `now` is the number in use."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = most
        self._cores = sorted(os.sched_getaffinity(0))
        self._last: _Reading | None = None  # since when this stretch of work is watched
        self._worked = _Reading(0, 0, 0)  # in the stretches before it

    def choose(self, now: float) -> int | None:
        """The number of threads from now on, when it changes. `now` is monotonic seconds; cheap to call often."""
        if self._most == 1:
            return None
        if self._last is None:
            self._last = self._read(now)
        elif self._worked.at + now - self._last.at >= PERIOD_S:
            self.rest(now)
            passed_s, busy_s, own_s = self._worked
            self._worked, self._last = _Reading(0, 0, 0), self._read(now)
            wanted = num_threads(len(self._cores), self._most, self.now, max(0.0, busy_s - own_s) / passed_s)
            if wanted != self.now:
                self.now = wanted
                return wanted
        return None

    def rest(self, now: float) -> None:
        """The engine has nothing to do. What others do meanwhile does not tell what they do when it works again."""
        if self._last is not None:
            self._worked = _Reading(
                *(sum - then + here for sum, then, here in zip(self._worked, self._last, self._read(now), strict=True))
            )
            self._last = None

    def _read(self, now: float) -> "_Reading":
        return _Reading(now, _busy_s(self._cores), _own_s())


class _Reading(NamedTuple):
    """Seconds: the time, what all processes have worked on these cores, and what this one has."""

    at: float
    busy: float
    own: float


def num_threads(cores: int, most: int, now: int, others: float) -> int:
    """How many of `most` threads are right, when there are `now` and other work takes `others` of the `cores`. Pure."""
    free = cores - others
    if free < now - SLACK_CORES:
        return max(1, min(now - 1, int(free + SLACK_CORES)))
    if free > now + 1 - SLACK_CORES:
        return min(most, now + 1)
    return now


def _busy_s(cores: list[int]) -> float:
    """Seconds that these cores have worked since the machine started."""
    wanted = {f"cpu{core}" for core in cores}
    busy = 0
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / TICKS_PER_S


def _own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
