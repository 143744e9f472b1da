"""What systemd is told."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket at which systemd listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.setblocking(False)
    yield sock
    sock.close()


def environment(systemd: socket.socket) -> dict[str, str]:
    """As systemd sets it for WatchdogSec=30."""
    return {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "30000000"}


def test_ready_and_stopping_are_said(systemd: socket.socket) -> None:
    """One datagram each."""
    notifier = Notifier(environment(systemd), is_alive=lambda: True)
    notifier.ready()
    notifier.stopping()
    assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_the_watchdog_is_fed_while_all_engines_are_listened_to(systemd: socket.socket) -> None:
    """Several times in the time that systemd gives; not at all when something hangs that only a restart helps."""
    alive = True
    notifier = Notifier(environment(systemd), is_alive=lambda: alive)
    assert notifier.beat_s == 10
    asyncio.run(notifier.beat())
    assert systemd.recv(100) == b"WATCHDOG=1"
    alive = False
    asyncio.run(notifier.beat())
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_a_socket_without_a_file_is_found() -> None:
    """The socket may be an abstract one, named with an @ for the zero byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses a name
        name = "@" + sock.getsockname()[1:].decode()
        Notifier({"NOTIFY_SOCKET": name}, is_alive=lambda: True).ready()
        assert sock.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_said() -> None:
    """No socket, no beats: an agent in a terminal, and one whose systemd is gone, go on."""
    silent = Notifier({"WATCHDOG_USEC": "30000000"}, is_alive=lambda: True)
    silent.ready()
    assert silent.beat_s == 0
    Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"}, is_alive=lambda: True).ready()
