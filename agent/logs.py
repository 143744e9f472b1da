"""Logs: structlog on standard error, JSON lines unless on a terminal.

Prompt and answer text is never passed to a logger. As a second fence, an exception is logged by type and
place and not by message, because foreign messages can quote what they failed on.
"""

import logging
import sys
import traceback
from collections import deque
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

from agent.config import Log
from contract.settings import LogLevel

TAIL_BYTES = 64 * 1024
_WEIGHTS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Tail:
    """Where log lines go: to a file, and the last of them into memory, for whoever asks from afar."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: deque[str] = deque()
        self._num_bytes = 0

    def write(self, text: str) -> None:
        """Takes a line, with its end."""
        self._file.write(text)
        self._lines.append(text.rstrip("\n"))
        self._num_bytes += len(text)
        while self._num_bytes > TAIL_BYTES:
            self._num_bytes -= len(self._lines.popleft()) + 1

    def flush(self) -> None:
        """As of a file."""
        self._file.flush()

    def last(self, num_lines: int) -> list[str]:
        """The newest lines, the oldest of them first."""
        return list(self._lines)[-num_lines:]


class _Threshold:
    """Drops what is below a level, which can change while the process runs."""

    def __init__(self) -> None:
        self.level = logging.INFO

    def __call__(self, _: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if _WEIGHTS.get(method, logging.ERROR) < self.level:
            raise structlog.DropEvent
        return event


_threshold = _Threshold()


def set_level(level: LogLevel) -> None:
    """From now on, lines of less weight than this are dropped."""
    _threshold.level = _WEIGHTS[level]


def setup_logs(settings: Log) -> Tail:
    """Configures structlog for this process. Call once, before the first logger is used."""
    tail = Tail(sys.stderr)
    set_level(settings.level)
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            _threshold,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=tail),  # type: ignore[arg-type]  # it writes and flushes
        cache_logger_on_first_use=True,
    )
    # Libraries (paho, apscheduler, asyncio) log through the standard library. Their debug lines can hold
    # payloads, so only warnings pass, as one line each.
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)
    return tail


def silence_logs() -> None:
    """For commands that run parts of the agent: what goes wrong is their one sentence, not lines of a log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()


class _Bridge(logging.Handler):
    """With an exception the place is where that was raised: the line that reports it is always the library's same."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        said = describe(error) if error else {"where": f"{record.module}:{record.lineno}"}
        structlog.get_logger().warning("library warning", library=record.name, **said)


def describe(error: BaseException) -> dict[str, str]:
    """Type and place of an exception, for a log line: no message, no values. The line that raised it comes first."""
    frames = traceback.extract_tb(error.__traceback__, limit=-4)
    where = " < ".join(f"{Path(frame.filename).stem}.{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return {"error": type(error).__name__, "where": where}
