"""When a running agent renews its certificate, against a real controller."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.identity import load_identity
from agent.renewal import CUT_OFF_S, SEEN_FACT, Renewal
from agent.store.database import Database
from agent.store.facts import Facts
from contract.enrolment import CERTIFICATE_LIFE_MS, DAY_MS
from tests.fakes.controller import ControllerProcess
from tests.fakes.enrolled import EnrolledAgent


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("renewal")).ready()
    yield running
    running.stop()


class Device:
    """The part of a daemon that renews, with clocks that the test sets."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self.database = Database(place / "store")
        self.ahead_ms = 0
        self.uptime_s = 0.0
        self.connected = True
        self.renewal = self.restart()

    def restart(self) -> Renewal:
        """As when the daemon starts."""
        self.renewal = Renewal(
            self.folder,
            Facts(self.database),
            system_ms=lambda: time.time_ns() // 1_000_000 + self.ahead_ms,
            monotonic_s=lambda: self.uptime_s,
            connected=lambda: self.connected,
        )
        return self.renewal

    def look(self) -> bool:
        """One look; returns whether there is a new certificate."""
        before = load_identity(self.folder)
        asyncio.run(self.renewal.look())
        return load_identity(self.folder) != before

    def seen_ms(self) -> int:
        """What it wrote down as the time."""
        return int(Facts(self.database).get(SEEN_FACT) or 0)


@pytest.fixture
def device(controller: ControllerProcess, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Device]:
    """An enrolled device."""
    agent = EnrolledAgent(tmp_path / "device")
    done = agent.enroll(controller, controller.token(name_of(request)))
    assert done.returncode == 0, done.stderr
    made = Device(agent.identity, tmp_path)
    yield made
    made.database.close()


def name_of(request: pytest.FixtureRequest) -> str:
    """An id for the device of a test."""
    return str(request.node.name).replace("_", "-")[:60]


def test_it_renews_at_half_life_and_not_before(device: Device) -> None:
    """Six tenths of the life are late enough for any jitter, four are early enough."""
    device.ahead_ms = CERTIFICATE_LIFE_MS * 39 // 100
    assert not device.look()
    device.ahead_ms = CERTIFICATE_LIFE_MS * 61 // 100
    assert device.look()
    device.ahead_ms = 0
    assert not device.look()


def test_without_a_broker_it_tries(device: Device) -> None:
    """Perhaps the certificate is why the broker hangs up: a device without a clock cannot know how old it is."""
    device.connected = False
    device.uptime_s += CUT_OFF_S - 1
    assert not device.look()
    device.uptime_s += 2
    assert device.look()


def test_a_clock_that_is_set_right_again_does_not_renew_for_ever(device: Device) -> None:
    """It was 20 days ahead and believed; the certificate that this led to says what the time is."""
    device.ahead_ms = 20 * DAY_MS
    assert device.look()
    device.ahead_ms = 0
    assert not device.look()
    device.restart()
    assert not device.look()


def test_time_seen_goes_into_the_store(device: Device) -> None:
    """So that a device without a clock chip does not start again at the certificate's date."""
    device.ahead_ms = -2 * 365 * DAY_MS
    device.restart()
    assert device.renewal.identity is not None
    device.uptime_s += 3600
    device.look()
    assert device.seen_ms() == device.renewal.identity.issued_ms + 3_600_000
    device.uptime_s = 0
    assert device.restart().clock.now_ms() == device.seen_ms()


def test_a_refusal_is_said_once(
    device: Device, controller: ControllerProcess, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that is revoked goes on asking, and says so once."""
    assert controller.fleet("revoke", name_of(request)).returncode == 0
    device.ahead_ms = CERTIFICATE_LIFE_MS * 61 // 100
    for _ in range(2):
        assert not device.look()
    assert capsys.readouterr().out.count("it is revoked") == 1


def test_who_never_enrolled_does_nothing(tmp_path: Path) -> None:
    """No identity: no renewal, no writing, and certificates are checked by the clock that there is."""
    device = Device(tmp_path / "nothing", tmp_path)
    device.connected, device.uptime_s = False, 10 * CUT_OFF_S
    asyncio.run(device.renewal.look())
    assert (device.renewal.is_due, device.renewal.check_time, device.seen_ms()) == (False, True, 0)
    device.database.close()
