"""`fleet serve` as a process: start, health, stop, and what the broker hears of it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from contract.enrolment import Role
from contract.presence import ControllerState
from contract.topics import ControllerStatus
from fleet.folder import ROLES
from fleet.mosquitto import running_pid
from tests.fakes.controller import ControllerProcess, listens
from tests.fakes.waiting import until

TOPIC = ControllerStatus().path("home")


@pytest.fixture
def controller(tmp_path: Path, database_url: str) -> Iterator[ControllerProcess]:
    """A controller that is not started yet, on each database."""
    made = ControllerProcess(tmp_path, database_url)
    yield made
    made.stop()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does not run meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def presence(controller: ControllerProcess) -> ControllerState:
    """What is retained about the controller."""
    with controller.watch() as link:
        link.subscribe({TOPIC: 1})
        incoming = link.next(20)
        assert incoming is not None
        return msgspec.json.decode(incoming.payload, type=ControllerState)


def test_it_starts_serves_and_stops(controller: ControllerProcess) -> None:
    """It is healthy with its broker, ends with code 0, takes the broker with it, and starts again."""
    for _ in range(2):
        controller.ready()
        assert controller.health() == {"healthy": True, "database": True, "broker": True}
        assert running_pid(controller.folder) is not None
        assert controller.stop() == 0
        assert running_pid(controller.folder) is None
    assert len(controller.records("stopped")) == 2


def test_a_missing_broker_shows_in_its_health(controller: ControllerProcess) -> None:
    """Without a broker it serves, says so once, and says that it is not whole."""
    controller.start("--no-embedded-broker")
    until(lambda: controller.records("no connection to the broker; trying again"), "log line")
    assert controller.health() == {"healthy": False, "database": True, "broker": False}
    assert controller.stop() == 0


def test_a_crash_leaves_a_broker_that_the_next_start_uses(controller: ControllerProcess) -> None:
    """After kill -9 the broker has told everybody, and a new start comes back to it with a higher session."""
    controller.ready()
    broker = running_pid(controller.folder)
    controller.stop(signal.SIGKILL)
    lost = presence(controller)
    assert lost.s == "lost"
    controller.ready()
    assert running_pid(controller.folder) == broker
    online = presence(controller)
    assert online.s == "online"
    assert online.sess > lost.sess


def test_a_broker_that_dies_is_started_again(controller: ControllerProcess) -> None:
    """Also one that an earlier controller started. Loss and return are one line each in the log."""
    controller.ready()
    for number, of_before in ((1, False), (2, True)):
        if of_before:
            controller.stop(signal.SIGKILL)
            controller.ready()
        dead = running_pid(controller.folder)
        assert dead is not None
        os.kill(dead, signal.SIGKILL)
        until(lambda number=number: len(controller.records("connected to the broker again")) == number, "connection")  # type: ignore[misc]  # a default
        assert running_pid(controller.folder) not in (None, dead)
        assert controller.health() == {"healthy": True, "database": True, "broker": True}
        assert len(controller.records("the broker has ended; starting it again")) == number
        assert len(controller.records("the connection to the broker is lost; trying again")) == number
    assert controller.stop() == 0
    assert running_pid(controller.folder) is None


@pytest.mark.parametrize("role", ROLES)
def test_a_broker_whose_port_is_taken_is_one_sentence(controller: ControllerProcess, role: Role) -> None:
    """It ends before it says that it has started one."""
    port = controller.folder.port(role)
    with socket.create_server(("127.0.0.1", port)):
        ended = controller.fleet("serve", str(controller.path), "--embedded-broker")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"cannot start a broker: port {port} is taken or not allowed" in line
    assert line.endswith(f"set [broker] {role}s_port")


def test_a_broker_that_cannot_be_started_again_ends_the_controller(controller: ControllerProcess) -> None:
    """In one sentence: something else has its port by then."""
    controller.ready()
    with frozen(controller.pid):  # it shall not be faster
        broker = running_pid(controller.folder)
        assert broker is not None
        os.kill(broker, signal.SIGKILL)
        until(lambda: not listens(controller.folder.port("node")), "free port")
        taken = socket.create_server(("127.0.0.1", controller.folder.port("node")))
    with taken:
        assert controller.wait() == 1
    (failed,) = controller.records("cannot go on; ending", part="broker")
    assert "is taken or not allowed" in failed["why"]
    assert failed["why"] in controller.log.read_text("utf-8").splitlines()[-1]


def test_one_controller_uses_a_folder(controller: ControllerProcess) -> None:
    """A second one would take the first one's place at the broker; it says so and ends."""
    controller.ready()
    second = controller.fleet("serve", str(controller.path))
    assert second.returncode == 1
    assert "another controller uses" in second.stderr
    assert controller.health() == {"healthy": True, "database": True, "broker": True}


def test_a_taken_port_is_one_sentence(controller: ControllerProcess) -> None:
    """It says which port is not free, and ends with all that it had started."""
    with socket.create_server(("127.0.0.1", controller.folder.settings.https.port)):
        ended = controller.fleet("serve", str(controller.path), "--embedded-broker")
    assert ended.returncode == 1
    assert f"cannot listen on port {controller.folder.settings.https.port}" in ended.stderr.splitlines()[-1]
    assert running_pid(controller.folder) is None
