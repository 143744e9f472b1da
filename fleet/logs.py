"""Logs of `fleet serve`: structlog on standard error, JSON lines unless on a terminal."""

import logging
import sys
from typing import Any

import structlog


def setup_logs() -> None:
    """Configures structlog for this process."""
    console = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)


def silence_logs() -> None:
    """For commands that use parts of the controller: what they have to say is their one sentence."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class _Bridge(logging.Handler):
    """What libraries warn of, by place and type: their messages can quote what strangers sent."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().warning(
            "library warning",
            library=record.name,
            where=f"{record.module}:{record.lineno}",
            error=record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None,
        )
