"""A circuit breaker: a server that keeps failing is left alone, then tried with one request. Pure.

closed ──MAX_FAILURES in a row──► open ──after a pause──► half open: one probe ──it works──► closed
                                    ▲                                          └─it fails──► open, twice as long
"""

from msgspec import Struct
from msgspec.structs import replace

MAX_FAILURES = 5
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0


class Breaker(Struct, frozen=True):
    """How a server has been doing. `open_until_s` is 0 while it is closed; `probing` while the one probe is out."""

    failures: int = 0
    open_until_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    probing: bool = False


def may_ask(breaker: Breaker, now_s: float) -> bool:
    """Whether a request may go to the server now."""
    return not breaker.open_until_s or (now_s >= breaker.open_until_s and not breaker.probing)


def asking(breaker: Breaker) -> Breaker:
    """A request goes; of an open one it is the probe."""
    return replace(breaker, probing=bool(breaker.open_until_s))


def worked(breaker: Breaker, *, is_probe: bool) -> Breaker:
    """The server answered. What was under way when it opened does not close it."""
    return breaker if breaker.open_until_s and not is_probe else Breaker()


def failed(
    breaker: Breaker, now_s: float, random_number: float, *, is_probe: bool, retry_after_s: float = 0.0
) -> Breaker:
    """The server failed. `random_number` is from 0 to 1: several controllers must not probe together.

    A server that said when to come again is not asked before. What was under way when it opened says nothing new.
    """
    if breaker.open_until_s and not is_probe:
        return breaker
    failures = breaker.failures + 1
    if failures < MAX_FAILURES and not retry_after_s:
        return replace(breaker, failures=failures)
    pause_s = min(LONGEST_PAUSE_S, max(retry_after_s, breaker.pause_s * (0.75 + random_number / 2)))
    return Breaker(failures, now_s + pause_s, min(LONGEST_PAUSE_S, 2 * breaker.pause_s))


def left(breaker: Breaker) -> Breaker:
    """The probe ended without saying anything of the server: who asked went away."""
    return replace(breaker, probing=False)
