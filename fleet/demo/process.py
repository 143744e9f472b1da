"""Programs that the demo starts and ends.

A process is ended only after its start time showed that it is the one that was started: pids are used again.
"""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fleet.errors import DemoError

KILLED_WITHIN_S = 5.0


class Process(msgspec.Struct, frozen=True):
    """A process and when it started, which together name it for as long as this machine runs."""

    pid: int
    started: str

    @property
    def running(self) -> bool:
        """Whether it is still there."""
        return _start_of(self.pid) == self.started

    def end(self, patience_s: float) -> bool:
        """Asks it to end with SIGTERM, and kills it and its children when it has not after `patience_s`.

        Returns:
            Whether it was still running.
        """
        try:
            # The descriptor stands for the process that has the pid now; its start is compared after that.
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.running:
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not _ended(descriptor, patience_s):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)  # it leads the session that `start` made
                _ended(descriptor, KILLED_WITHIN_S)
        finally:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):  # it is not ours to reap when an earlier command started it
            os.waitpid(self.pid, os.WNOHANG)
        return True


def start(command: list[str], log: Path, env: Mapping[str, str]) -> Process:
    """Starts a program in a session of its own, with its output in `log`.

    It holds nothing of the caller's: no terminal, no pipe. So it can stay when the caller ends.

    Raises:
        DemoError: there is no such program, or it may not run.
    """
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        except OSError as error:
            raise DemoError(f"cannot start {command[0]}: {(error.strerror or 'unknown reason').lower()}") from error
    started = _start_of(child.pid)
    child.returncode = 0  # from here on `Process.end` looks after it: Popen must not complain that it still runs
    return Process(child.pid, started or "ended")


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for people."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    return ""


def _start_of(pid: int) -> str | None:
    """When a process started, as the boot and the clock ticks since then; None when it has ended."""
    try:
        # Field 2 is the program's name in parentheses and may hold anything; state and start come after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _ended(descriptor: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
