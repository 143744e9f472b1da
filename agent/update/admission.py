"""Whether a node can have a release at all: looked at before its first byte is fetched. Pure."""

from msgspec import Struct

from agent.store.database import RESERVE_BYTES
from contract.release import Release

MIB = 1 << 20


class Room(Struct, frozen=True, kw_only=True):
    """What a node has: bytes on the disk with what may go for the release, bytes of memory for engines, and the digest
    of the model that an adapter would act on.
    """

    disk_bytes: int
    memory_bytes: int
    base_sha256: str | None


def obstacle(release: Release, kind: str, room: Room) -> str | None:
    """Why this node cannot have a release for a slot of this kind, with what would do; None: nothing is in the way."""
    reference = release.reference
    if release.kind != kind:
        return f"cannot use {reference} as {_with_article(kind)}: it is {_with_article(release.kind)}"
    if release.base_sha256 is not None and release.base_sha256 != room.base_sha256:
        here = f"is {room.base_sha256}" if room.base_sha256 else "is missing"
        return (
            f"cannot use {reference}: it was made for the model {release.base_sha256}, and this node's default model"
            f" {here}; wish for its model first"
        )
    need = release.file.bytes + RESERVE_BYTES
    if need > room.disk_bytes:
        return (
            f"cannot store {reference}: {release.file.bytes} bytes and {RESERVE_BYTES} for other data must be free on"
            f" the disk, and {room.disk_bytes} are or could be; free some space"
        )
    if release.memory_bytes > room.memory_bytes:
        return (
            f"cannot run {reference}: it takes {release.memory_bytes // MIB} MiB of memory, and engines of this node"
            f" have {room.memory_bytes // MIB}; choose a smaller variant"
        )
    return None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "adapter" else f"a {kind}"
