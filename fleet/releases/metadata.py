"""The files of TUF metadata: what nodes see, and what waits for signatures."""

from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from fleet.api.trust import Role
from fleet.errors import FolderError, UsageError
from fleet.folder import replace_private
from fleet.releases.public_file import write_public

ROLES: tuple[Role, ...] = ("root", "targets", "snapshot", "timestamp")


class MetadataFiles:
    """The folder `metadata` of the releases, and the one where metadata waits. Each file is there whole."""

    def __init__(self, releases: Path, pending: Path) -> None:
        self.releases = releases
        self._metadata = releases / "metadata"
        self._pending = pending

    @property
    def have_begun(self) -> bool:
        """Whether nodes see anything."""
        return (self._metadata / "timestamp.json").exists()

    def root(self) -> Metadata[Root]:
        """The newest root."""
        return self._load(f"{self.newest('root')}.root.json")

    def targets(self) -> Metadata[Targets]:
        """What is approved."""
        return self._load(f"{self.snapshot().signed.meta['targets.json'].version}.targets.json")

    def snapshot(self) -> Metadata[Snapshot]:
        """What belongs together."""
        return self._load(f"{self.timestamp().signed.snapshot_meta.version}.snapshot.json")

    def timestamp(self) -> Metadata[Timestamp]:
        """What is the newest."""
        return self._load("timestamp.json")

    def newest(self, role: Role) -> int:
        """The largest number in a name, also of what was never seen."""
        suffix = f".{role}.json"
        numbers = [file.name.removesuffix(suffix) for file in self._metadata.glob(f"*{suffix}")]
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def write(self, name: str, data: bytes) -> None:
        """Writes what nodes see, and has it on disk; does nothing when it is there.

        Raises:
            FolderError: there is no space or no right.
        """
        file = self._metadata / name
        try:
            if not file.exists() or file.read_bytes() != data:
                write_public(file, data, self.releases)
        except OSError as error:
            raise FolderError(f"cannot write {file}: {error.strerror}; check space and rights") from error

    def pending(self, role: Role) -> Metadata[Any] | None:
        """What waits for signatures; None: nothing does."""
        file = self._pending / f"{role}.json"
        return _read(file) if file.exists() else None

    def keep(self, metadata: Metadata[Any]) -> None:
        """Has it wait, in place of what waited."""
        replace_private(self._pending / f"{metadata.signed.type}.json", metadata.to_bytes())

    def drop(self, role: Role) -> None:
        """Nothing waits any more."""
        (self._pending / f"{role}.json").unlink(missing_ok=True)

    def _load(self, name: str) -> Metadata[Any]:
        return _read(self._metadata / name)


def read_metadata(data: bytes) -> Metadata[Any]:
    """Metadata from its file.

    Raises:
        UsageError: it is none.
    """
    try:
        return Metadata.from_bytes(data)
    except DeserializationError as error:
        raise UsageError(f"cannot read the metadata: {error}; give what `fleet release pending` wrote") from None


def _read(file: Path) -> Metadata[Any]:
    try:
        return read_metadata(file.read_bytes())
    except OSError as error:
        raise FolderError(f"cannot read {file}: {error.strerror}; restore it from a copy") from error
    except UsageError as error:
        raise FolderError(f"cannot use {file}: {error}") from error
