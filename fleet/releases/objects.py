"""A plain folder of immutable files named by their SHA-256, as any web server or object store can serve it."""

from pathlib import Path

from contract.release import object_path
from fleet.errors import FolderError
from fleet.releases.public_file import write_public


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
            write_public(path, data, self._folder)
        except OSError as error:
            raise FolderError(f"cannot store the object {path}: {error.strerror}; check space and rights") from error
