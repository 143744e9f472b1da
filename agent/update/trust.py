"""Which releases may be used: TUF metadata (python-tuf's client), with what a device adds. Not for the daemon.

What always holds:

- Nothing is said of a release before the metadata that says it is on the disk and its versions are in `Record`.
- A role's version never decreases, also when the disk lost what was written last. Keys that the root exchanged begin
  anew: that is how a fleet gets out of a version that somebody made too large.
- The first root is the one of the enrolment, each time. What lies in the folder is checked against it like anything
  that comes from outside, so a torn file there is fetched again.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from agent.update.reader import Expired, Gone, Reader, Untrue
from agent.update.record import Record
from contract.limits import MAX_MANIFEST_BYTES

# Whose keys make a role's version: the targets' own, and those of the snapshot that names it.
_VOUCHERS = {"timestamp": ("timestamp",), "snapshot": ("snapshot",), "targets": ("snapshot", "targets")}


class Trust:
    """The metadata of one folder, refreshed once."""

    def __init__(
        self,
        folder: Path,
        first_root: bytes,
        reader: Reader,
        record: Record,
        now_ms: int,
        *,
        metadata: str = "metadata/",
        targets: str = "targets/",
    ) -> None:
        """Begins with what is in `folder`. `metadata` and `targets` are where the reader has them.

        Raises:
            Untrue: the first root is none.
            OSError: the folder cannot be used.
        """
        self._folder = folder
        self._record = record
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = UpdaterConfig(targets_max_length=MAX_MANIFEST_BYTES)
        fetcher = _Fetcher(reader)
        with _in_our_words():
            self._updater = Updater(
                str(folder), metadata, None, targets, fetcher=fetcher, config=config, bootstrap=first_root
            )
        # ngclient takes the system's clock and has no way to be told the time (a test holds that this one counts).
        self._trusted.reference_time = datetime.fromtimestamp(now_ms / 1000, UTC)

    def refresh(self) -> None:
        """Gets the newest metadata. When it cannot, what was known before stays.

        Raises:
            Untrue: signatures, versions or sizes are wrong.
            Expired: it is too old.
            SourceError: it did not come.
            StoreError, OSError: it cannot be kept, and so does not count.
        """
        try:
            with _in_our_words():
                self._updater.refresh()
        finally:
            _sync(self._folder)
        self._check_floors()

    def target(self, path: str) -> TargetFile | None:
        """What is approved under a path, if anything is. Refreshes, unless that was done.

        Raises:
            SourceError, StoreError, OSError: as for `refresh`.
        """
        if "targets" not in self._trusted:
            self.refresh()
        try:
            with _in_our_words():
                return self._updater.get_targetinfo(path)
        finally:
            _sync(self._folder)  # roles that others delegate to may have come

    def fetch(self, target: TargetFile, file: Path) -> bytes:
        """What is approved: from `file` when it is there, else from the source, and then it is there.

        Raises:
            SourceError: it did not come.
            OSError: it cannot be stored.
        """
        if not self._updater.find_cached_target(target, str(file)):
            fresh = file.with_name(f".{file.name}.new")
            with _in_our_words():
                self._updater.download_target(target, str(fresh))
            _sync_path(fresh)
            fresh.replace(file)
            _sync_path(file.parent)
        return file.read_bytes()

    @property
    def _trusted(self) -> TrustedMetadataSet:
        return self._updater._trusted_set  # versions and time are nowhere else

    def _check_floors(self) -> None:
        root = self._trusted.root
        versions = [(root.type, "", root.version)]
        for signed in (self._trusted.timestamp, self._trusted.snapshot, self._trusted.targets):
            keyids = sorted(keyid for role in _VOUCHERS[signed.type] for keyid in root.roles[role].keyids)
            versions.append((signed.type, hashlib.sha256(" ".join(keyids).encode()).hexdigest(), signed.version))
        for name, keys, version in versions:
            if version < (floor := self._record.floor(name, keys)):
                (self._folder / f"{name}.json").unlink(missing_ok=True)
                _sync_path(self._folder)
                raise Untrue(f"its {name}.json has the version {version}, and this node has seen {floor}")
        self._record.raise_floors(versions)


class _Fetcher(FetcherInterface):
    """python-tuf's way to a reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self._read(url, MAX_MANIFEST_BYTES)

    @contextlib.contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Instead of the one that fetches more than may come, into a file of /tmp."""
        yield io.BytesIO(self._read(url, max_length))

    def _read(self, url: str, max_bytes: int) -> bytes:
        try:
            return self._reader.read(url, max_bytes)
        except Gone as error:
            raise DownloadHTTPError(f"{error}", 404) from error  # how ngclient knows the newest root


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except ExpiredMetadataError as error:
        raise Expired(f"its metadata is too old: {error}") from error
    except RepositoryError as error:
        raise Untrue(f"its metadata cannot be trusted: {error}") from error
    except DownloadError as error:
        raise Gone(f"its metadata is not complete: {error}") from error


def _sync(folder: Path) -> None:
    """Has all below a folder on the disk: ngclient leaves that to the system."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
