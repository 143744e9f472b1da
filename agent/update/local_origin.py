"""A folder of releases on this machine, asked like a server."""

import os
from collections.abc import Callable
from pathlib import Path

from agent.update.reader import Gone, Untrue

PIECE_BYTES = 256 * 1024


class LocalOrigin:
    """As `agent.update.origin.Origin` and its connection at once; there is nothing to connect."""

    is_open = True

    def __init__(self, folder: Path) -> None:
        self.url = f"file:{folder}"
        self._folder = folder

    async def open(self) -> "LocalOrigin":
        """Itself."""
        return self

    def close(self) -> None:
        """Nothing to do."""

    async def whole(self, path: str, max_bytes: int) -> bytes:
        """A file."""
        return self.read(path, max_bytes)

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file.

        Raises:
            SourceError: it is not there, or larger.
        """
        try:
            with (self._folder / path).open("rb") as file:
                content = file.read(max_bytes + 1)
        except OSError as error:
            raise Gone(f"it has no {path}: {error.strerror}") from error
        if len(content) > max_bytes:
            raise Untrue(f"its {path} has more than {max_bytes} bytes")
        return content

    async def part(self, path: str, start: int, end: int, total: int, take: Callable[[bytes], object]) -> None:
        """Bytes of a file of `total` bytes."""
        try:
            with (self._folder / path).open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != total:
                    raise Untrue(f"its {path} has {found} bytes instead of {total}")
                take(os.pread(file.fileno(), end - start, start))
        except OSError as error:
            raise Gone(f"it has no {path}: {error.strerror}") from error
