"""Which source is asked next: the fastest one that may be asked. The time is passed in, in seconds that only grow.

- One that was never measured is tried before those that were, with one request at a time.
- One that fails waits, longer each time. The first failure costs nothing: servers close connections that were idle.
- One that lies is set aside, for as long as this process lives, and said so once.
- Who says that a file is not there is not asked for it again.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from agent.update.local_origin import LocalOrigin
from agent.update.origin import Origin
from agent.update.reader import Busy, Gone, SourceError, Untrue

FIRST_WAIT_S: Final = 0.5
# How long it is worth waiting for a source inside of one attempt; the workflow waits longer, and tells so.
MAX_WAIT_S: Final = 10.0
# A byte can flip anywhere between. Who sends wrong ones again is set aside.
MAX_WRONG: Final = 2
SMOOTHING: Final = 0.5


@dataclass(eq=False)
class Source:
    """A place that has what is wanted, and what is known of it."""

    origin: Origin | LocalOrigin
    bytes_per_s: float | None = None
    num_running: int = 0
    num_failed: int = 0  # in a row
    num_wrong: int = 0
    failed_at_s: float = -math.inf
    not_before_s: float = 0.0
    is_out: bool = False
    lacks: set[str] = field(default_factory=set)
    why: str = ""  # the last failure


class Exhausted(Exception):
    """No source can be asked soon. `after_s`: when one can. `is_final`: all of them say that it is not there."""

    def __init__(self, why: str, after_s: float, *, is_final: bool) -> None:
        super().__init__(why)
        self.after_s = after_s
        self.is_final = is_final


class Sources:
    """All that can be asked for the same objects."""

    def __init__(self, origins: Iterable[Origin | LocalOrigin], on_poisoned: Callable[[str, str], None]) -> None:
        """`on_poisoned` hears the URL of a source that lies, and why."""
        self.all = [Source(origin) for origin in origins]
        self._on_poisoned = on_poisoned

    def choose(self, sha256: str, now_s: float) -> Source | float:
        """The source to ask for an object, or how many seconds to wait before asking again.

        Raises:
            Exhausted: waiting here is in vain.
        """
        able = [source for source in self.all if not source.is_out and sha256 not in source.lacks]
        if not able:
            why = "; ".join(f"{source.origin.url}: {source.why}" for source in self.all) or "no source is configured"
            is_final = bool(self.all) and all(sha256 in source.lacks for source in self.all)
            raise Exhausted(why, MAX_WAIT_S, is_final=is_final)
        ready = [source for source in able if source.not_before_s <= now_s]
        if ready:
            return max(ready, key=_worth)
        first = min(able, key=lambda source: source.not_before_s)
        wait_s = first.not_before_s - now_s
        if wait_s > MAX_WAIT_S:
            raise Exhausted(f"{first.origin.url}: {first.why}", wait_s, is_final=False)
        return wait_s

    def went_well(self, source: Source, num_bytes: int, seconds: float) -> None:
        """A source sent so many bytes in this time."""
        source.num_failed = 0
        measured = num_bytes / max(seconds, 1e-6)
        known = source.bytes_per_s
        source.bytes_per_s = measured if known is None else known + SMOOTHING * (measured - known)

    def went_wrong(self, source: Source, sha256: str, error: SourceError, asked_s: float, now_s: float) -> None:
        """A source that was asked for an object did not send it."""
        source.why = str(error)
        match error:
            case Untrue():
                self.set_aside(source, source.why)
            case Gone():
                source.lacks.add(sha256)
            case Busy(after_ms=after_ms):
                source.not_before_s = now_s + after_ms / 1000
            case _ if asked_s > source.failed_at_s:  # else the same fault broke several connections
                wait_s = FIRST_WAIT_S * 2 ** (source.num_failed - 1) if source.num_failed else 0
                source.num_failed += 1
                source.failed_at_s, source.not_before_s = now_s, now_s + wait_s

    def was_wrong(self, source: Source, why: str) -> None:
        """All bytes of an object came from a source, and are not those of the object."""
        source.why = why
        source.num_wrong += 1
        if source.num_wrong == 1:
            self._on_poisoned(source.origin.url, why)
        elif source.num_wrong == MAX_WRONG:
            source.is_out = True

    def set_aside(self, source: Source, why: str) -> None:
        """A source is not asked any more."""
        source.why = why
        if not source.is_out:
            source.is_out = True
            if not source.num_wrong:
                self._on_poisoned(source.origin.url, source.why)


def _worth(source: Source) -> float:
    if source.bytes_per_s is not None:
        return source.bytes_per_s
    return math.inf if not source.num_running else 0.0
