"""mosquitto as a child of `fleet serve`, for a trial on one machine: same configuration, same rights."""

import asyncio
import os
import select
import signal

import structlog

from fleet.errors import FolderError
from fleet.folder import Folder
from fleet.mosquitto import CONFIG_FILE, find_mosquitto, running_pid

log = structlog.get_logger()

ENDS_WITHIN_S = 10.0


class ChildBroker:
    """Starts a broker, and ends it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._pid: int | None = None

    async def begin(self) -> None:
        """Starts it, unless one runs with this configuration, as after a crash of ours.

        Raises:
            FolderError: mosquitto is not installed or cannot be started.
        """
        self._pid = running_pid(self._folder)
        if self._pid is not None:
            log.info("a broker is running already", pid=self._pid)
            return
        program = find_mosquitto()
        if program is None:
            raise FolderError("cannot start a broker: install mosquitto, with `apt-get install mosquitto` for example")
        command = [program, "-c", str(self._folder.broker / CONFIG_FILE)]
        try:
            with (self._folder.broker / "mosquitto.log").open("ab") as output:
                # A session of its own: Ctrl-C in a terminal is for us, and we end the broker last.
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            raise FolderError(f"cannot start {command[0]}: {error.strerror}") from error
        self._pid = process.pid
        log.info("broker started", pid=self._pid, log=output.name)

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
                if not await asyncio.to_thread(_ended, descriptor):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(ENDS_WITHIN_S * 1000))
