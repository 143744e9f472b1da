"""Whether a node can have a release at all: looked at before its first byte is fetched. Pure."""

from msgspec import Struct

from agent.store.database import RESERVE_BYTES
from agent.weights.architectures import ENCODERS, REFUSED
from contract.release import Release

MIB = 1 << 20


class Room(Struct, frozen=True, kw_only=True):
    """What a node has: bytes on the disk with what may go for the release, bytes of memory for engines, the digest and
    the architecture of the model that an adapter would act on, its machine as `uname -m` calls it, and the features of
    its processor.
    """

    disk_bytes: int
    memory_bytes: int
    base_sha256: str | None
    architecture: str | None = None
    machine: str = ""
    features: frozenset[str] = frozenset()


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
    if why := _unmet(release, room):
        return f"cannot run {reference}: {why}; choose another variant"
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


def _unmet(release: Release, room: Room) -> str | None:
    """What the release requires and this node is not."""
    requires = release.requires
    if requires.machines and room.machine not in requires.machines:
        return f"it is for machines of the kind {', '.join(requires.machines)}, and this one is {room.machine}"
    if missing := sorted(set(requires.features) - room.features):
        return f"it needs a processor with {', '.join(missing)}"
    architecture = requires.architecture
    if architecture is None:
        return None
    if release.kind == "adapter":
        is_same = architecture == room.architecture
        return None if is_same else f"it is for models of the architecture {architecture}, not {room.architecture}"
    if architecture in ENCODERS:
        return f"models of the architecture {architecture} make embeddings, and default models generate text"
    return f"its architecture is {architecture}: {REFUSED[architecture]}" if architecture in REFUSED else None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "adapter" else f"a {kind}"
