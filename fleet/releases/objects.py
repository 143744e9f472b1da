"""A plain folder of immutable files named by their SHA-256, as any web server or object store can serve it."""

import contextlib
import os
import tempfile
from pathlib import Path

from contract.release import object_path
from fleet.errors import FolderError

_MODE = 0o444  # nobody changes an object, and a web server that runs as somebody else may read it
_FOLDER_MODE = 0o755


class Objects:
    """The folder. An object is there whole or not at all, whenever the power goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, sha256: str) -> bool:
        """Whether the object is there."""
        return (self._folder / object_path(sha256)).is_file()

    def read(self, sha256: str) -> bytes:
        """An object's bytes, as they are.

        Raises:
            FolderError: it is not there or cannot be read.
        """
        path = self._folder / object_path(sha256)
        try:
            return path.read_bytes()
        except OSError as error:
            raise FolderError(f"cannot read the object {path}: {error.strerror}; restore it from a copy") from error

    def put(self, sha256: str, data: bytes) -> None:
        """Stores the bytes that have this digest; does nothing when they are there.

        Raises:
            FolderError: there is no space or no right.
        """
        path = self._folder / object_path(sha256)
        if path.is_file():
            return
        try:
            path.parent.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            _write_whole(path, data)
            for folder in (path.parent, path.parent.parent, self._folder):
                _sync(folder)
        except OSError as error:
            raise FolderError(f"cannot store the object {path}: {error.strerror}; check space and rights") from error


def _write_whole(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
