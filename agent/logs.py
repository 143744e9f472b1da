"""Logs: structlog on standard error, JSON lines unless on a terminal.

Prompt and answer text is never passed to a logger. As a second fence, an exception is logged by type and
place and not by message, because foreign messages can quote what they failed on.
"""

import logging
import sys
import traceback
from typing import Any

import structlog

from agent.config import Log


def setup_logs(settings: Log) -> None:
    """Configures structlog for this process. Call once, before the first logger is used."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (paho, apscheduler, asyncio) log through the standard library. Their debug lines can hold
    # payloads, so only warnings pass, as one line each.
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)


def silence_logs() -> None:
    """For commands that run parts of the agent: what goes wrong is their one sentence, not lines of a log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()


class _Bridge(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().warning(
            "library warning",
            library=record.name,
            where=f"{record.module}:{record.lineno}",
            error=record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None,
        )


def describe(error: BaseException) -> dict[str, str]:
    """Type and place of an exception, for a log line: no message, no values."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    return {"error": type(error).__name__, "where": where}
