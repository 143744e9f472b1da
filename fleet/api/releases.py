"""Releases, as they go over HTTP: what is published, what is uploaded for it, and what is there."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from contract.ids import END
from contract.release import Facts, FileBytes, Kind, License, MemoryBytes, Sha256, Version
from contract.requests import Id
from fleet.api.forms import Body, Parameters

_NAME = r"[a-z0-9][a-z0-9._-]{0,62}@[A-Za-z0-9][A-Za-z0-9._+-]{0,62}"
ReleaseName = Annotated[str, Meta(pattern=f"^{_NAME}{END}", description="`name@version`.")]
Base = Annotated[
    str, Meta(pattern=f"^([0-9a-f]{{64}}|{_NAME}){END}", description="The SHA-256 of a model file, or `name@version`.")
]
State = Literal["approved", "waiting", "yanked"]


class NewUpload(Body, frozen=True, kw_only=True):
    """A file that shall be sent: its digest, and how long it is."""

    sha256: Sha256
    bytes: FileBytes


class Upload(Struct, frozen=True):
    """Where the file is to be sent with PUT; `is_here` when it need not be."""

    id: str
    is_here: bool


class NewRelease(Facts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be published: a file that was uploaded, and what is to be known of it.

    What is None is taken from the file: the licence, the base of an adapter (a digest or `name@version`), the
    architecture; the memory is computed.
    """

    name: Id
    version: Version
    kind: Kind
    sha256: Sha256
    license: License | None = None
    memory_bytes: MemoryBytes | None = None
    base: Base | None = None


class Published(Struct, frozen=True, kw_only=True):
    """A release. `missing`: how many signatures it needs before nodes see it."""

    release: str
    is_new: bool
    missing: int
    bytes: int
    fetch_bytes: Annotated[int, Meta(description="What a node fetches that holds nothing.")]
    update_bytes: Annotated[
        dict[str, int], Meta(description="What a node fetches that holds this earlier release, by its name.")
    ]


class Listed(Struct, frozen=True, kw_only=True):
    """A release at a glance. waiting: for signatures; yanked: not to be wished any more."""

    release: str
    kind: Kind
    state: State
    bytes: int
    sha256: str
    published_ms: int
    reason: str | None = None


class Shown(Struct, frozen=True):
    """All of a release: its manifest, without the segments."""

    listed: Listed
    manifest: dict[str, Any]
    num_segments: int


class OfVersion(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version of the name in the path."""

    version: Version


class NewBundle(Body, frozen=True, kw_only=True):
    """Which releases shall go into one file, and for how many days its signatures shall hold."""

    releases: Annotated[list[ReleaseName], Meta(min_length=1, max_length=256)]
    days: Annotated[int, Meta(ge=1, le=365)] = 30


class BroughtBundle(Body, frozen=True, kw_only=True):
    """A bundle that was uploaded. `root`: TUF root metadata of who exported it; without, this fleet's own."""

    sha256: Sha256
    root: Annotated[str, Meta(max_length=65536)] | None = None


class Adopted(Struct, frozen=True, kw_only=True):
    """The releases of a bundle: those that are new here, and those that were here."""

    new: list[str]
    known: list[str]
    missing: int


class Yank(Body, frozen=True, kw_only=True):
    """Why a release shall not be wished any more."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class Yanked(Struct, frozen=True):
    """Nodes that have it, or of which it is wished: they keep it until they are told otherwise."""

    missing: int
    nodes: list[str]
