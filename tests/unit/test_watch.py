"""What is told before it hurts."""

import asyncio
from typing import Any

from agent.watch import DISK_LOW_MIB, DISK_OK_MIB, Watch


def test_each_change_is_told_once() -> None:
    """A disk between the two marks, and a clock that stays wrong, are no news."""
    told: list[tuple[str, dict[str, Any]]] = []
    state: dict[str, int | None] = {"free": 1000, "off": None}
    watch = Watch(
        disk_free_mib=lambda: state["free"],
        clock_off_ms=lambda: state["off"],
        on_alert=lambda name, data: told.append((name, data)),
    )
    for free in (DISK_LOW_MIB, DISK_LOW_MIB - 1, 3, None, DISK_OK_MIB - 1, DISK_OK_MIB, DISK_LOW_MIB + 1):
        state["free"] = free
        asyncio.run(watch.look())
    assert told == [("disk_low", {"free_mib": DISK_LOW_MIB - 1}), ("disk_ok", {"free_mib": DISK_OK_MIB})]
    told.clear()
    for off in (-5_000, -6_000, None, 9_000):
        state["off"] = off
        asyncio.run(watch.look())
    assert told == [("clock_wrong", {"off_s": -5}), ("clock_wrong", {"off_s": 9})]
