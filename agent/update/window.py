"""When releases may be fetched: hours of the week on the wall clock of a time zone. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct

from contract.enrolment import DAY_MS

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class BadWindow(ValueError):
    """There is no such time zone: "cannot use …"."""


class Window(Struct, frozen=True):
    """From `start` to `end`, the latter not included; past midnight when it ends no later than it starts.

    `days` are those on which it starts. What the wall clock skips in spring is not there on that day, and what it shows
    twice in autumn is there twice.
    """

    days: tuple[str, ...]
    start: time
    end: time
    zone: ZoneInfo


def window_from(text: str) -> Window:
    """A window from its setting, whose form was checked (`contract.settings`).

    Raises:
        BadWindow: this node knows no such time zone.
    """
    words = text.split()
    days = tuple(words.pop(0).split(",")) if "-" not in words[0] else DAYS
    start, end = (time.fromisoformat(clock) for clock in words[0].split("-"))
    name = words[1] if len(words) > 1 else "UTC"
    try:
        return Window(days, start, end, ZoneInfo(name))
    except (OSError, ValueError):  # also a name that leads out of the zones' folder
        raise BadWindow(f"cannot use the window {text!r}: this node knows no time zone {name!r}") from None


def is_open(windows: Sequence[Window], now_ms: int) -> bool:
    """Whether one of them is open. None at all means always."""
    return not windows or any(_is_open(window, now_ms) for window in windows)


def next_change_ms(windows: Sequence[Window], now_ms: int) -> int | None:
    """When they open, or close, if that happens within nine days."""
    state = is_open(windows, now_ms)
    edges = {edge for window in windows for edge in _edges(window, now_ms)}
    return next((edge for edge in sorted(edges) if edge > now_ms and is_open(windows, edge) != state), None)


def _is_open(window: Window, now_ms: int) -> bool:
    local = datetime.fromtimestamp(now_ms / 1000, window.zone)
    at = local.time()
    started_today = DAYS[local.weekday()] in window.days
    if window.start < window.end:
        return started_today and window.start <= at < window.end
    started_yesterday = DAYS[(local - timedelta(days=1)).weekday()] in window.days
    return (started_today and at >= window.start) or (started_yesterday and at < window.end)


def _edges(window: Window, now_ms: int) -> Iterator[int]:
    """Times at which it may open or close: its own, and midnights, when the day is another one."""
    for day in range(-1, 10):
        date = datetime.fromtimestamp(now_ms / 1000 + day * DAY_MS / 1000, window.zone).date()
        for clock in (window.start, window.end, time(0)):
            for fold in (0, 1):
                local = datetime.combine(date, clock.replace(fold=fold), window.zone)
                yield round(local.astimezone(UTC).timestamp() * 1000)
