"""Logs of `fleet serve`: structlog on standard error, JSON lines unless on a terminal.

A refusal that points here is found here: `describe` gives what of an exception may be written down.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog

from fleet.errors import FleetError

OURS = str(Path(__file__).parent)


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


def describe(error: BaseException) -> dict[str, str]:
    """An exception, for a log line: the sentence of one of ours; else type and place.

    Others' messages are left out: they can quote what they failed on, a prompt or a row. A database's code
    (`SQLITE_FULL`, `53100`) cannot.
    """
    described = {"error": type(error).__name__}
    if isinstance(error, FleetError):
        return described | {"why": str(error)}
    cause = getattr(error, "orig", error)  # SQLAlchemy wraps what the driver said
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return described | {"where": _where(error)} | ({"code": str(code)} if code else {})


def _where(error: BaseException) -> str:
    """The line that raised it, and the line of ours that led there."""
    lines = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    ours = [line for line in lines if line[0].startswith(OURS)]
    places = (f"{'/'.join(Path(file).parts[-2:])}:{number}" for file, number in lines[-1:] + ours[-1:])
    return " < ".join(dict.fromkeys(places))


class _Bridge(logging.Handler):
    """What libraries warn of, by place and type: their messages can quote what strangers sent.

    With an exception the place is where that was raised: uvicorn reports our faults, always from the same line.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        said = describe(error) if error else {"where": f"{record.module}:{record.lineno}"}
        structlog.get_logger().warning("library warning", library=record.name, **said)
