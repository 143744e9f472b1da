"""When nodes may begin to change: hours of the week on the wall clock of a time zone. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct

from fleet.errors import UsageError

_TEXT = re.compile(r"(?:([a-z,]+) )?(\d\d:\d\d)-(\d\d:\d\d)(?: (\S+))?")

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Window(Struct, frozen=True, kw_only=True):
    """From `start` to `end`, the latter not included; past midnight when it ends no later than it starts.

    `days` are those on which it starts. The wall clock decides: what it skips in spring is not there on that day, and
    what it shows twice in autumn is there twice.
    """

    days: tuple[str, ...] = DAYS
    start: str
    end: str
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{','.join(self.days)} {self.start}-{self.end} {self.zone}"


def parse_window(text: str) -> Window:
    """The window of `22:00-06:00`, of `sat,sun 08:00-20:00` or of `mon 22:00-06:00 Europe/Berlin`.

    Raises:
        UsageError: it is none.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise UsageError(f"cannot use the window {text!r}: write one as in `mon,tue 22:00-06:00 Europe/Berlin`")
    days, start, end, zone = found.groups()
    window = Window(days=tuple(days.split(",")) if days else DAYS, start=start, end=end, zone=zone or "UTC")
    check_window(window)
    return window


def check_window(window: Window) -> None:
    """Whether it is one.

    Raises:
        UsageError: says what is not as it should be.
    """
    if not window.days or not set(window.days) <= set(DAYS):
        raise UsageError(f"cannot use the window {window}: days are {', '.join(DAYS)}")
    try:
        _clock(window.start)
        _clock(window.end)
    except ValueError:
        raise UsageError(f"cannot use the window {window}: write times as in 22:00") from None
    try:
        ZoneInfo(window.zone)
    except (OSError, ValueError):  # also a name that leads out of the zones' folder
        raise UsageError(f"cannot use the window {window}: there is no time zone {window.zone!r}") from None


def is_open(windows: Sequence[Window], now_ms: int) -> bool:
    """Whether one of them is open now. None at all means always."""
    return not windows or any(_is_open(window, now_ms) for window in windows)


def _is_open(window: Window, now_ms: int) -> bool:
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(window.zone))
    start, end, at = _clock(window.start), _clock(window.end), local.time()
    started_today = DAYS[local.weekday()] in window.days
    if start < end:
        return started_today and start <= at < end
    started_yesterday = DAYS[(local - timedelta(days=1)).weekday()] in window.days
    return (started_today and at >= start) or (started_yesterday and at < end)


def _clock(text: str) -> time:
    return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  # a time of day, in no zone yet
