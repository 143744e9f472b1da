"""The time on devices without a clock chip, or with a clock that is years off."""

from agent.clock import Clock
from contract.deadlines import CLOCK_FLOOR_MS
from contract.enrolment import CERTIFICATE_LIFE_MS, DAY_MS, RENEWAL_GRACE_MS

ISSUED_MS = CLOCK_FLOOR_MS + 500 * DAY_MS
TWO_YEARS_MS = 2 * 365 * DAY_MS


class Device:
    """A device whose system clock and uptime the test sets."""

    def __init__(self, system_ms: int, seen_ms: int = 0) -> None:
        self.system_ms = system_ms
        self.uptime_s = 100.0
        self.clock = Clock(seen_ms, system_ms=lambda: self.system_ms, monotonic_s=lambda: self.uptime_s)

    def enrolled(self) -> "Device":
        """With a certificate from some time ago."""
        self.clock.learn(ISSUED_MS, ISSUED_MS + CERTIFICATE_LIFE_MS, just_now=False)
        return self

    def runs(self, ms: int) -> None:
        """Time passes."""
        self.system_ms += ms
        self.uptime_s += ms / 1000


def test_a_good_clock_is_used() -> None:
    """Also one that is a little behind the controller's."""
    for system_ms in (ISSUED_MS - DAY_MS // 2, ISSUED_MS + 3 * DAY_MS):
        device = Device(system_ms).enrolled()
        assert device.clock.is_credible
        assert device.clock.now_ms() == system_ms


def test_without_a_clock_time_goes_on_from_the_certificate() -> None:
    """A device that starts in 1970 counts from the last time that the controller signed."""
    device = Device(0).enrolled()
    device.runs(5000)
    assert not device.clock.is_credible
    assert device.clock.now_ms() == ISSUED_MS + 5000


def test_two_years_behind_or_ahead_is_not_believed() -> None:
    """Behind the floor, or so far ahead that the certificate could not be renewed any more."""
    for off_ms in (-TWO_YEARS_MS, TWO_YEARS_MS):
        device = Device(ISSUED_MS + off_ms).enrolled()
        assert not device.clock.is_credible
        assert device.clock.now_ms() == ISSUED_MS


def test_what_was_seen_before_a_restart_counts() -> None:
    """A device without a clock does not start again at the certificate's date."""
    seen_ms = ISSUED_MS + 3 * DAY_MS
    assert Device(0, seen_ms).enrolled().clock.now_ms() == seen_ms


def test_never_before_shoal_was_made() -> None:
    """Also when nobody enrolled."""
    assert Device(0).clock.now_ms() == CLOCK_FLOOR_MS


def test_a_certificate_from_just_now_corrects_what_was_seen() -> None:
    """A clock that was 20 days ahead, and then set right, must not count as wrong for 20 days."""
    right_ms = ISSUED_MS + 2 * DAY_MS
    device = Device(right_ms, seen_ms=right_ms + 20 * DAY_MS).enrolled()
    before = device.clock.is_credible
    device.clock.learn(right_ms, right_ms + CERTIFICATE_LIFE_MS, just_now=True)
    assert (before, device.clock.is_credible) == (False, True)
    assert device.clock.now_ms() == right_ms


def test_the_last_day_of_the_grace_is_believed() -> None:
    """A device that was off for a month and has a good clock checks certificates by it."""
    last_ms = ISSUED_MS + CERTIFICATE_LIFE_MS + RENEWAL_GRACE_MS
    assert Device(last_ms).enrolled().clock.is_credible
    assert not Device(last_ms + 1).enrolled().clock.is_credible
