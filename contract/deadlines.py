"""When a request must have ended."""

from contract.limits import DEFAULT_TTL_MS

# A device without a clock chip starts in 1970 until its time is set. Before this moment (2026-01-01) no
# Shoal existed, so a clock that shows less is not set and an absolute deadline cannot be compared with it.
CLOCK_FLOOR_MS = 1_767_225_600_000


def clock_is_set(now_ms: int) -> bool:
    """Whether `now_ms` (ms since 1970) can be the true time."""
    return now_ms >= CLOCK_FLOOR_MS


def deadline_ms(now_ms: int, *, exp: int | None, ttl_ms: int | None, default_ttl_ms: int = DEFAULT_TTL_MS) -> int:
    """The deadline in ms since 1970 on the clock that showed `now_ms`.

    Given both, the earlier holds. A clock that is not set knows only durations.
    """
    if exp is not None and clock_is_set(now_ms):
        return exp if ttl_ms is None else min(exp, now_ms + ttl_ms)
    return now_ms + (default_ttl_ms if ttl_ms is None else ttl_ms)
