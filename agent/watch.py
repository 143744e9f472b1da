"""Looks after what an operator should hear of before it hurts: the disk, and the clock. A function of values."""

from collections.abc import Callable
from typing import Any

DISK_LOW_MIB = 64  # the journal, the outbox and SQLite's own log need about this much
DISK_OK_MIB = 80  # so that a disk at the edge does not speak all day


class Watch:
    """Tells of each change once."""

    def __init__(
        self,
        *,
        disk_free_mib: Callable[[], int | None],
        clock_off_ms: Callable[[], int | None],
        on_alert: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`clock_off_ms` is None while the clock is credible."""
        self._disk_free_mib = disk_free_mib
        self._clock_off_ms = clock_off_ms
        self._on_alert = on_alert
        self._is_low = False
        self._is_off = False

    async def look(self) -> None:
        """Looks. Called now and then, in the event loop: APScheduler takes plain functions into threads."""
        free_mib = self._disk_free_mib()
        if free_mib is not None and (free_mib < DISK_LOW_MIB, free_mib >= DISK_OK_MIB)[self._is_low]:
            self._is_low = not self._is_low
            self._on_alert("disk_low" if self._is_low else "disk_ok", {"free_mib": free_mib})
        off_ms = self._clock_off_ms()
        if off_ms is not None and not self._is_off:
            self._on_alert("clock_wrong", {"off_s": round(off_ms / 1000)})
        self._is_off = off_ms is not None
