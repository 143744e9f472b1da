"""mosquitto as a child of `fleet serve`, for a trial on one machine: same configuration, same rights."""

import asyncio
import os
import signal
import socket
import time

import structlog

from fleet.errors import FolderError
from fleet.folder import ROLES, Folder
from fleet.mosquitto import CONFIG_FILE, find_mosquitto, running_pid

log = structlog.get_logger()

ENDS_WITHIN_S = 10.0
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0


class ChildBroker:
    """Starts a broker, starts it again when it ends, and ends it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._log = folder.broker / "mosquitto.log"
        self._pid: int | None = None

    async def begin(self) -> None:
        """Starts it, unless one runs with this configuration, as after a crash of ours.

        Raises:
            FolderError: mosquitto is not installed or cannot be started, or a port is taken.
        """
        self._pid = running_pid(self._folder)
        if self._pid is not None:
            log.info("a broker is running already", pid=self._pid)
            return
        program = find_mosquitto()
        if program is None:
            raise FolderError("cannot start a broker: install mosquitto, with `apt-get install mosquitto` for example")
        _check_ports(self._folder)
        command = [program, "-c", str(self._folder.broker / CONFIG_FILE)]
        try:
            with self._log.open("ab") as output:
                # A session of its own: Ctrl-C in a terminal is for us, and we end the broker last.
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            raise FolderError(f"cannot start {command[0]}: {error.strerror}") from error
        self._pid = process.pid
        log.info("broker started", pid=self._pid, log=str(self._log))

    async def watch(self) -> None:
        """Starts it again whenever it has ended. Returns at once when none was begun.

        Raises:
            FolderError: it cannot be started again.
        """
        pause_s = 0.0
        while self._pid is not None:
            began = time.monotonic()
            await _end_of(self._pid)
            pause_s = next_pause_s(pause_s, time.monotonic() - began)
            log.error("the broker has ended; starting it again", pid=self._pid, log=str(self._log), pause_s=pause_s)
            await asyncio.sleep(pause_s)
            await self.begin()

    async def end(self) -> None:
        """Ends it, also the one that an earlier controller started."""
        if self._pid is None:
            return
        try:
            # The descriptor stands for whoever has the pid now; who that is, is asked after it was opened.
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return
        try:
            if running_pid(self._folder) == self._pid:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                try:
                    await asyncio.wait_for(_readable(descriptor), ENDS_WITHIN_S)
                except TimeoutError:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def next_pause_s(last_s: float, lasted_s: float) -> float:
    """How long to wait before the next start: twice as long as the last time, unless it has lasted since."""
    return FIRST_PAUSE_S if lasted_s > MAX_PAUSE_S else min(max(2 * last_s, FIRST_PAUSE_S), MAX_PAUSE_S)


def _check_ports(folder: Folder) -> None:
    """Looks before mosquitto does, which would say it in its own log only."""
    for role in ROLES:
        port = folder.port(role)
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise FolderError(
                f"cannot start a broker: port {port} is taken or not allowed; end what listens there, or set [broker] "
                f"{role}s_port"
            ) from error


async def _end_of(pid: int) -> None:
    """Returns when a process has ended; it need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    """Returns when the process behind a descriptor has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
