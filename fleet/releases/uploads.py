"""Files on their way to being published: there whole, with the digest that was announced, or not at all."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterable
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool

from fleet.api.releases import NewUpload, Upload
from fleet.errors import FolderError, NoRoomError, NotFoundError, UsageError

ID_DIGITS = 40  # of the digest: an id has no room for all 64
PIECE_BYTES = 1 << 20
RESERVE_BYTES = 256 << 20  # for the database, the broker, metadata
KEPT_S = 24 * 3600
_UNFINISHED = ".part"


class Uploads:
    """The folder. A file is there under its digest until it is published, or for a day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: dict[str, NewUpload] = {}

    def begin(self, wanted: NewUpload) -> Upload:
        """Announces a file.

        Raises:
            NoRoomError: the disk would be full; says how much is missing.
        """
        name = wanted.sha256[:ID_DIGITS]
        if self._file(wanted.sha256).exists():
            return Upload(name, True)
        # The objects that the file becomes are at most as large as itself.
        needed, free = 2 * wanted.bytes + RESERVE_BYTES, shutil.disk_usage(self._folder).free
        if needed > free:
            raise NoRoomError(
                f"cannot take a file of {wanted.bytes} bytes: publishing it needs {needed} bytes and {free} are free "
                f"in {self._folder}; free {needed - free}"
            )
        self._begun[name] = wanted
        return Upload(name, False)

    async def receive(self, name: str, pieces: AsyncIterable[bytes]) -> None:
        """Takes an announced file. When it does not come whole, nothing is left.

        Raises:
            NotFoundError: it was not announced.
            UsageError: it is not what was announced.
            FolderError: it cannot be written.
        """
        wanted = self._begun.get(name)
        if wanted is None:
            raise NotFoundError(f"cannot take {name!r}: it was not announced; begin with POST /v1/uploads")
        part = self._file(wanted.sha256).with_suffix(f".{os.urandom(4).hex()}{_UNFINISHED}")
        digest, num_bytes, piece = hashlib.sha256(), 0, bytearray()
        try:
            with part.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                async for more in pieces:
                    num_bytes += len(more)
                    if num_bytes > wanted.bytes:
                        raise UsageError(f"cannot take over {wanted.bytes} bytes: so many were announced")
                    piece += more
                    if len(piece) >= PIECE_BYTES:
                        await run_in_threadpool(_store, piece, file, digest)
                await run_in_threadpool(_store, piece, file, digest)
                if digest.hexdigest() != wanted.sha256:
                    raise UsageError(
                        f"cannot take what came: {num_bytes} of {wanted.bytes} bytes, with the SHA-256 "
                        f"{digest.hexdigest()}, not {wanted.sha256}; send it again"
                    )
            part.replace(self._file(wanted.sha256))
        except OSError as error:
            raise FolderError(f"cannot write {part}: {error.strerror}; check space and rights") from error
        finally:
            part.unlink(missing_ok=True)
        self._begun.pop(name, None)

    def find(self, sha256: str) -> Path:
        """A file that has come.

        Raises:
            NotFoundError: it has not.
        """
        file = self._file(sha256)
        if not file.exists():
            raise NotFoundError(f"cannot find an uploaded file with the SHA-256 {sha256}: send it first")
        return file

    def drop(self, sha256: str) -> None:
        """It is published."""
        self._file(sha256).unlink(missing_ok=True)

    def tidy(self, *, at_start: bool = False) -> None:
        """Removes what nobody has published for a day; at the start also what had not come whole."""
        for file in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > KEPT_S or (at_start and file.suffix == _UNFINISHED):
                    file.unlink()

    def _file(self, sha256: str) -> Path:
        return self._folder / sha256


def _store(piece: bytearray, file: BinaryIO, digest: "hashlib._Hash") -> None:
    file.write(piece)
    digest.update(piece)
    piece.clear()
