"""Waiting for what no message tells of: a process that ends, a line in a log, a number in a status."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 60.0
LOOK_S = 0.02


def until(look: Callable[[], T | None], what: str, timeout_s: float = WAIT_S) -> T:
    """The first result of `look` that is true in a condition; `what` says what was missing when none comes."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {timeout_s:g} s")
        time.sleep(LOOK_S)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
