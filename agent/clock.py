"""The time on a device that may have no clock chip, or a wrong clock. A function of values: both clocks are passed in.

What is known is a floor: the time is not before Shoal was made, not before the newest certificate or wish was signed,
and not before what an earlier run last saw. A clock below the floor is wrong. So is one that shows a time at which our
certificate could not even be renewed any more: if it were right, all would be lost anyway. A wrong clock is not used;
time then goes on from the floor, which is behind by as long as the device was off.
"""

from collections.abc import Callable

from contract.deadlines import CLOCK_FLOOR_MS
from contract.enrolment import DAY_MS, RENEWAL_GRACE_MS

# A controller's clock may be ahead of a right one by this much.
TOLERANCE_MS = DAY_MS


class Clock:
    """Tells the time as well as it can be known."""

    def __init__(self, seen_ms: int, *, system_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        """`seen_ms` is what an earlier run last saw, or 0."""
        self._system_ms = system_ms
        self._monotonic_s = monotonic_s
        self._expires_ms: int | None = None
        self._set_floor(max(seen_ms, CLOCK_FLOOR_MS))

    def learn(self, issued_ms: int, expires_ms: int, *, just_now: bool) -> None:
        """Takes the dates of the newest certificate, a time that the controller signed.

        One that was signed just now is the time, also when an earlier run believed a clock that was ahead.
        """
        self._expires_ms = expires_ms
        if just_now:
            self._set_floor(issued_ms)
        else:
            self.learn_signed(issued_ms)

    def learn_signed(self, issued_ms: int) -> None:
        """Takes the date of a document of the controller: it has passed."""
        if issued_ms > self._floor_now_ms():
            self._set_floor(issued_ms)

    @property
    def is_credible(self) -> bool:
        """Whether the system's clock may be right."""
        now_ms = self._system_ms()
        latest_ms = float("inf") if self._expires_ms is None else self._expires_ms + RENEWAL_GRACE_MS
        return self._floor_ms - TOLERANCE_MS <= now_ms <= latest_ms

    def now_ms(self) -> int:
        """The time in ms since 1970; never far before the floor."""
        return self._system_ms() if self.is_credible else self._floor_now_ms()

    @property
    def off_ms(self) -> int:
        """How far the system's clock is ahead of what is known."""
        return self._system_ms() - self._floor_now_ms()

    def _set_floor(self, floor_ms: int) -> None:
        self._floor_ms = floor_ms
        self._floor_at_s = self._monotonic_s()

    def _floor_now_ms(self) -> int:
        return self._floor_ms + int((self._monotonic_s() - self._floor_at_s) * 1000)
