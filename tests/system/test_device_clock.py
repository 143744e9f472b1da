"""A device whose clock is two years behind the fleet's.

The clock of this machine cannot be set by a test, so the fleet's is moved: servers whose certificates begin in two
years are what a device sees whose clock is two years behind, and so is a record of a certificate that was signed then.
"""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.identity import RECORD_FILE, load_identity
from contract.enrolment import DAY_MS
from contract.topics import NodeStatus
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.waiting import until

OFF_DAYS = 2 * 365


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[ControllerProcess]:
    """A controller whose servers are two years ahead."""
    made = ControllerProcess(tmp_path)
    pair = made.folder.authority("root").server(HOST, datetime.now(UTC) + timedelta(days=OFF_DAYS))
    for stem in (made.path / "controller" / "https", made.folder.broker / "server"):
        stem.with_suffix(".key").write_bytes(pair.key_pem)
        stem.with_suffix(".crt").write_bytes(pair.certificate_pem)
    yield made.start()
    made.stop()


@pytest.fixture
def device(tmp_path: Path, model: Path) -> Iterator[EnrolledAgent]:
    """A device on which nothing is configured."""
    made = EnrolledAgent(tmp_path / "device", model)
    yield made
    made.stop(signal.SIGKILL)


def signed_in_two_years(device: EnrolledAgent) -> None:
    """Makes the device's certificate one that was signed when its clock will show in two years."""
    identity = load_identity(device.identity)
    assert identity is not None
    moved = msgspec.structs.replace(
        identity,
        issued_ms=identity.issued_ms + OFF_DAYS * DAY_MS,
        expires_ms=identity.expires_ms + OFF_DAYS * DAY_MS,
    )
    (device.identity / RECORD_FILE).write_bytes(msgspec.json.encode(moved))


def test_it_enrols_renews_and_connects(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """Enrolling needs no clock. Afterwards the signed time says that the clock is wrong: one warning, it goes on."""
    done = device.enroll(controller, controller.token("n1"))
    assert done.returncode == 0, done.stderr
    signed_in_two_years(device)
    with controller.watch() as watch:
        watch.subscribe({NodeStatus("n1").path("home"): 1})
        device.start()
        until(lambda: watch.next(1), "status of n1")
    assert len(device.records("the system's clock is wrong; certificates are not checked by it")) == 1
    renewed = device.command("renew")
    assert renewed.returncode == 0, renewed.stderr


def test_a_clock_that_may_be_right_is_believed(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """With a certificate signed at a time that the clock agrees with, a server from the future is refused."""
    device.enroll(controller, controller.token("n1"))
    renewed = device.command("renew")
    assert renewed.returncode == 1
    assert "certificate is not yet valid" in renewed.stderr
