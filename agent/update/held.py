"""Segments that a node holds: parts of the files of releases that it has."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from agent.errors import DamagedError
from agent.update.plan import offsets_of
from contract.release import Release
from contract.segments import sha256_of


class HeldDamaged(DamagedError):
    """A held file is not what it was."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Place(Struct, frozen=True):
    """Where a segment is."""

    path: Path
    offset: int
    num_bytes: int


def places_of(release: Release, path: Path) -> dict[str, Place]:
    """The segments that the file of a release holds, by digest."""
    return {
        digest: Place(path, offsets.starts[0], offsets.segment.bytes) for digest, offsets in offsets_of(release).items()
    }


def read_place(place: Place, sha256: str) -> bytes:
    """The segment that lies there.

    Raises:
        HeldDamaged: it does not, any more.
    """
    try:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.num_bytes)
    except OSError as error:
        raise _damaged(place, sha256, f"{error.strerror}") from error
    found = sha256_of(content)
    if found != sha256:
        raise _damaged(place, sha256, f"what is there has the SHA-256 {found}")
    return content


def without_damaged(places: Mapping[str, Place], path: Path) -> dict[str, Place]:
    """The places without those in the file at `path` where something else lies now. Reads that file."""
    return {sha256: place for sha256, place in places.items() if place.path != path or _is_intact(place, sha256)}


def _is_intact(place: Place, sha256: str) -> bool:
    try:
        read_place(place, sha256)
    except HeldDamaged:
        return False
    return True


def _damaged(place: Place, sha256: str, why: str) -> HeldDamaged:
    return HeldDamaged(
        f"cannot use {place.num_bytes} bytes at {place.offset} of {place.path} as the segment {sha256}: {why};"
        " it has to be fetched instead",
        place.path,
    )
