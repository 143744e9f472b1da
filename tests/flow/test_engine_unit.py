"""Engines in units of their own: as systemd starts them, at a connection, here by a listener of the test."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.engine.supervisor import Plan, State, Supervisor
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import is_alive, until


@pytest.fixture
def unit_socket(tmp_path: Path) -> Iterator[Path]:
    """What `shoal-engine.socket` with Accept=yes does: a process for each connection, which is its standard input."""
    path = tmp_path / "engine.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    started: list[subprocess.Popen[bytes]] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                started.append(subprocess.Popen([sys.executable, "-m", "agent.engine.unit"], stdin=connection.fileno()))

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for unit in started:
        assert unit.wait(30) == 0  # no unit outlives the one who asked for it


class Engine:
    """A supervisor in an event loop of its own, with what it told."""

    def __init__(self, model: Path, unit_socket: Path) -> None:
        self.deaths: list[str] = []
        plan = Plan(
            file=str(model), context_tokens=64, parallel=1, threads=1, start_timeout_s=60, stall_s=60,
            unit_socket=str(unit_socket),
        )  # fmt: skip
        self.supervisor = Supervisor(
            plan,
            first_rung=0,
            on_frame=lambda _: None,
            on_state=lambda _: None,
            on_lost=lambda death: self.deaths.append(death.value),
            on_rung=lambda _: None,
        )

    async def died(self, times: int) -> None:
        """Returns when it has died so often."""
        while len(self.deaths) < times:  # noqa: ASYNC110  # the supervisor tells of it by a callback
            await asyncio.sleep(0.01)

    async def ready(self) -> int:
        """The process id once it is ready."""
        await asyncio.wait_for(self.supervisor.wait_ready(), 60)
        assert self.supervisor.pid is not None
        return self.supervisor.pid


@pytest.fixture
def engine(tmp_path: Path, unit_socket: Path) -> Engine:
    """An engine with a tiny model, not started yet."""
    return Engine(write_tiny_model(tmp_path / "tiny.gguf"), unit_socket)


def test_an_engine_of_a_unit_is_like_a_child(engine: Engine) -> None:
    """It serves, its crash is told for what it was, it is replaced, killed when asked, and ends with the supervisor."""

    async def story() -> None:
        engine.supervisor.start()
        first = await engine.ready()
        assert psutil.Process(first).ppid() != os.getpid()
        os.kill(first, signal.SIGSEGV)
        await engine.died(1)
        second = await engine.ready()
        assert second != first
        engine.supervisor.kill()
        await engine.died(2)
        third = await engine.ready()
        await engine.supervisor.stop()
        assert engine.supervisor.state is State.STOPPED
        until(lambda: not is_alive(third), "end of the engine")

    asyncio.run(story())
    assert engine.deaths == ["crash", "killed"]


def test_an_engine_ends_with_a_daemon_that_dies(unit_socket: Path) -> None:
    """Its unit notices that nobody is there any more."""
    pairs = [socket.socketpair(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.connect(str(unit_socket))
        socket.send_fds(daemon, [b"S"], [theirs.fileno() for _, theirs in pairs])
        pid = json.loads(daemon.makefile().readline())["pid"]
        assert is_alive(pid)
    until(lambda: not is_alive(pid), "end of the engine")
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()


def test_without_a_unit_the_engine_is_broken(engine: Engine, unit_socket: Path) -> None:
    """A sentence says where it was looked for; nothing else of the daemon ends."""
    unit_socket.unlink()

    async def story() -> None:
        engine.supervisor.start()
        await asyncio.wait_for(engine.supervisor.wait_broken(), 60)
        await engine.supervisor.stop()

    asyncio.run(story())
    assert str(unit_socket) in engine.supervisor.problem
