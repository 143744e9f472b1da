"""The engine's ears: a thread that reads the daemon's frames while the main thread is inside llama.cpp.

It also watches the deadlines of running sequences, and stops a decode that a cancel or a deadline concerns.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from typing import Protocol

from agent.engine import frames
from agent.engine.adapters import Adapters
from agent.engine.llama import Abort

Work = frames.Generate | frames.Embed | frames.Score | frames.Judge | frames.MakeSlots


class Watched(Protocol):
    """A job that runs; `deadline` is in monotonic seconds."""

    job: int
    deadline: float
    stop_reason: str | None


class Inbox:
    """New jobs for the main thread; cancels, deadlines and pings are handled here at once."""

    def __init__(self, connection: socket.socket, files: socket.socket, send_lock: threading.Lock) -> None:
        """`files` is the socket through which the descriptors of adapters come."""
        self._connection = connection
        self._files = files
        self._send_lock = send_lock
        self._decoder = frames.Decoder(frames.ToEngine)
        self._jobs: deque[tuple[Work, float]] = deque()
        self._cancelled: dict[int, frames.StopReason] = {}
        self._new_jobs = threading.Event()
        self._look_again = os.eventfd(0, os.EFD_NONBLOCK)  # wakes the thread when there is a new deadline to watch
        self._running: dict[int, Watched] = {}
        self._lock = threading.Lock()
        self._abort: Abort | None = None
        self._adapters: Adapters | None = None
        self.step_started: float | None = None

    def first(self) -> frames.Load:
        """The frame that says what to load. Blocks."""
        while True:
            for frame in self._decoder.feed(self._receive()):
                if isinstance(frame, frames.Load):
                    return frame

    def start(self, abort: Abort, adapters: Adapters) -> None:
        """Begins to listen; adapters that come are checked and put into `adapters`."""
        self._abort = abort
        self._adapters = adapters
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def take(self, *, block: bool) -> list[tuple[Work, float]]:
        """New work, each with its arrival (monotonic seconds). With `block`, waits for at least one.

        `block` means that nothing runs.
        """
        if block:
            with self._lock:
                if not self._jobs:
                    self._cancelled.clear()  # they came when what they were for had ended
        while block and not self._jobs:
            self._new_jobs.wait()
            self._new_jobs.clear()
        jobs = []
        while self._jobs:
            jobs.append(self._jobs.popleft())
        return jobs

    def watch(self, sequence: Watched) -> None:
        """From now on a cancel or the deadline sets the sequence's `stop_reason`."""
        with self._lock:
            self._running[sequence.job] = sequence
            sequence.stop_reason = self._cancelled.get(sequence.job)
        os.eventfd_write(self._look_again, 1)

    def note_step(self) -> None:
        """Another step begins."""
        self.step_started = time.monotonic()

    def forget(self, job: int) -> None:
        """The job has ended."""
        with self._lock:
            self._running.pop(job, None)
            self._cancelled.pop(job, None)

    def _listen(self) -> None:
        # Every core computes: without a priority a cancel or a new adapter would wait for a slice of time, some
        # milliseconds, at each turn. It needs a right (LimitRTPRIO= of systemd); this thread only runs for moments.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        while True:
            with self._lock:
                nearest = min((s.deadline for s in self._running.values() if not s.stop_reason), default=None)
            wait = None if nearest is None else max(0.0, nearest - time.monotonic())
            descriptors = [self._connection.fileno(), self._look_again]
            readable, _, _ = select.select(descriptors, [], [], wait)
            self._expire()
            if self._look_again in readable:
                os.eventfd_read(self._look_again)
            if self._connection.fileno() in readable:
                for frame in self._decoder.feed(self._receive()):
                    self._handle(frame)

    def _handle(self, frame: frames.ToEngine) -> None:
        match frame:
            case frames.Generate() | frames.Embed() | frames.Score() | frames.Judge() | frames.MakeSlots():
                self._jobs.append((frame, time.monotonic()))
                self._new_jobs.set()
            case frames.Cancel(job, reason):
                with self._lock:
                    self._cancelled[job] = reason
                    if job in self._running:
                        self._stop(self._running[job], reason)
            case frames.Ping():
                started = self.step_started
                step_ms = 0.0 if started is None else (time.monotonic() - started) * 1000
                with self._send_lock:
                    self._connection.sendall(frames.encode(frames.Pong(step_ms=step_ms)))
            case frames.Adapter(sha256):
                # Checked in this thread, so that the others' steps go on meanwhile.
                _, descriptors, _, _ = socket.recv_fds(self._files, 1, 1)
                if self._adapters and descriptors:
                    self._adapters.add(sha256, descriptors[0])
            case frames.Forget(sha256):
                if self._adapters:
                    self._adapters.forget(sha256)
            case frames.Load():
                pass  # an engine loads one model in its life

    def _expire(self) -> None:
        now = time.monotonic()
        with self._lock:
            for sequence in self._running.values():
                if sequence.deadline <= now and not sequence.stop_reason:
                    self._stop(sequence, "deadline")

    def _stop(self, sequence: Watched, reason: frames.StopReason) -> None:
        # The reason first: the main thread clears the abort before it looks for reasons.
        sequence.stop_reason = sequence.stop_reason or reason
        if self._abort:
            self._abort.set()

    def _receive(self) -> bytes:
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            os._exit(0)  # the daemon is gone: nobody wants the answers, and llama.cpp need not be asked
        return data
