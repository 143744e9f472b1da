"""Reading a folder of releases, wherever it is, and how a source can disappoint."""

from typing import Protocol


class SourceError(Exception):
    """A source did not give what was asked for. The message says why, without naming the source."""


class Gone(SourceError):
    """It says that it has no such file, or not for us (4xx): asking again is useless."""


class Busy(SourceError):
    """It asks to be left alone for a while (429, 503)."""

    def __init__(self, why: str, after_ms: int) -> None:
        super().__init__(why)
        self.after_ms = after_ms


class Unreachable(SourceError):
    """Nobody answers, the connection broke, or the server has a fault (5xx)."""


class Untrue(SourceError):
    """What it sends is not what was asked for, or is sent such that it never ends: it is broken, or hostile."""


class Expired(Untrue):
    """It was true, and is too old now: nobody renewed it, or somebody holds back what is newer."""


class Reader(Protocol):
    """Reads files, by their paths in the folder."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file.

        Raises:
            SourceError: it cannot be had, or is larger.
        """
        ...
