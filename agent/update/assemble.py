"""The file of a release in the making.

What always holds:

- Nothing is written that has not the digest of its segment, and nothing outside of the segment's places.
- Which segments are in the file is known without it (`done`, kept by the caller) and can be found out from it
  (`intact`). What `put` wrote survives a loss of power once `sync` has returned: record it then, not before.
- A file that `finish` accepts has the digest of the manifest.
"""

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from agent.errors import DamagedError, NoSpaceError, StoreError
from agent.update.held import Place, read_place
from agent.update.plan import Step, offsets_of
from contract.release import BadRelease, Release
from contract.segments import sha256_of, unpack


class Assembly:
    """Makes the file at `path`, or goes on with it. Its whole size is reserved at once. Its calls block on the disk."""

    def __init__(self, release: Release, path: Path, held: Mapping[str, Place]) -> None:
        """Opens the file.

        Raises:
            NoSpaceError: the disk has no room for the whole file.
            StoreError: it cannot be opened.
        """
        self._release = release
        self._path = path
        self._held = held
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}; check the state directory") from error
        try:
            os.posix_fallocate(self._fd, 0, release.file.bytes)
            os.ftruncate(self._fd, release.file.bytes)
        except OSError as error:
            os.close(self._fd)
            raise self._unwritable(error) from error

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def put(self, step: Step, data: bytes | bytearray = b"") -> None:
        """Makes a step's segment and writes it to its places. `data` is what was fetched from the step's source.

        Raises:
            WrongBytes: the data is not the source's.
            BadSegment: the source does not make the segment.
            DamagedError: what this node holds of it, or what the source is a difference to, is damaged.
            NoSpaceError, StoreError: it cannot be written.
        """
        content: bytes | bytearray
        if step.source is None:
            content = self._held_segment(step.segment.sha256)
        else:
            base = self._held_segment(step.source.base) if step.source.base else None
            content = unpack(step.segment, step.source, data, base)
        for offset in step.offsets:
            self._write(content, offset)

    def sync(self) -> None:
        """Returns when what was put is on the disk.

        Raises:
            StoreError: the disk fails.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._unwritable(error) from error

    def intact(self) -> frozenset[str]:
        """The digests of the segments that are in the file at all of their places. Reads the whole file."""
        return frozenset(
            digest
            for digest, offsets in offsets_of(self._release).items()
            if all(sha256_of(self._read(start, offsets.segment.bytes)) == digest for start in offsets.starts)
        )

    def finish(self) -> None:
        """Returns when the whole file is right and on the disk.

        Raises:
            DamagedError: segments are missing or are not as they were written; `intact` has those that are right.
            BadRelease: all segments are right, the file is not.
            StoreError: the disk fails.
        """
        self.sync()
        digest = hashlib.sha256()
        for offset in range(0, self._release.file.bytes, 1 << 20):
            digest.update(self._read(offset, 1 << 20))
        found, wanted = digest.hexdigest(), self._release.file.sha256
        if found == wanted:
            return
        intact = self.intact()
        bad = [segment.name for segment in self._release.segments if segment.sha256 not in intact]
        if not bad:
            raise BadRelease(f"cannot use {self._release.reference}: its segments make {found}, not {wanted}")
        raise DamagedError(
            f"cannot finish {self._path}: {len(bad)} of its segments are not there as they should be, {bad[0]} is the"
            " first; they have to be fetched again"
        )

    def _held_segment(self, sha256: str) -> bytes:
        if sha256 not in self._held:
            raise DamagedError(f"cannot go on with {self._path}: the segment {sha256} is not held any more; plan again")
        return read_place(self._held[sha256], sha256)

    def _write(self, content: bytes | bytearray, offset: int) -> None:
        rest = memoryview(content)
        try:
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            raise self._unwritable(error) from error

    def _read(self, offset: int, num_bytes: int) -> bytes:
        try:
            return os.pread(self._fd, num_bytes, offset)
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}; is the disk failing?") from error

    def _unwritable(self, error: OSError) -> StoreError:
        need = f"cannot write {self._path} of {self._release.file.bytes} bytes"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return NoSpaceError(f"{need}: {error.strerror}; free some, or choose a smaller model")
        return StoreError(f"{need}: {error.strerror}; is the disk failing?")
