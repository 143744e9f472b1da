"""What the daemon has a child process do for an update, and what the child says: JSON lines, in and out.

The libraries for it would stay in the daemon's memory for ever. A child may be killed at any moment: that is how the
daemon cancels.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.update.errors import UpdateRefused
from contract.ids import is_id
from contract.release import Release

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")


class Link(Struct, frozen=True, kw_only=True):
    """Who may be asked, and what is needed for that."""

    sources: list[str]  # the controller first
    ca_file: str | None = None
    pem_file: str | None = None  # shown to the controller only
    check_time: bool = True
    bundle: str | None = None  # a folder of releases that somebody brought


class Neighbour(Struct, frozen=True):
    """A node of the site that hands out segments of the file that is wanted. Its certificate is in DER form and hex."""

    node: str
    url: str
    certificate: str


class Neighbours(Struct, frozen=True, tag=True):
    """Who they are now, this node aside. The daemon says so whenever that changes."""

    node: str = ""
    others: list[Neighbour] = []


class Allowance(Struct, frozen=True, kw_only=True):
    """What the link may be used for: bytes a second (0: no limit), bytes on a day, how long (None: no limit)."""

    rate_bytes_s: int = 0
    budget_bytes: int | None = None
    open_ms: int | None = None
    day: int = 0
    day_left_ms: int = 0  # until the budget is whole again


class Check(Struct, frozen=True, kw_only=True, tag=True):
    """Refresh the metadata, and get the manifest of a release."""

    folder: str
    root_file: str
    reference: str
    now_ms: int
    link: Link


class Held(Struct, frozen=True):
    """A file of a release that is on this node."""

    release: Release
    path: str


class Fetch(Struct, frozen=True, kw_only=True, tag=True):
    """Get what is missing of a release into a file; with `finish` until the whole file is right."""

    folder: str
    release: Release
    target: str
    held: list[Held]
    link: Link
    allowance: Allowance
    neighbours: Neighbours | None = None  # None: it is not to ask any
    finish: bool = False


class Progress(Struct, frozen=True, tag=True):
    """How far it is. `done`: the segments that are on the disk since the last time, by their place in the manifest."""

    progress: Annotated[float, Meta(ge=0, le=1)]
    done: list[int] = []


class Poisoned(Struct, frozen=True, tag=True):
    """A source is not used any more, because of what it sent."""

    source: str
    why: str


class Replanned(Struct, frozen=True, tag=True):
    """What is held turned out to be damaged, and other things are fetched instead."""

    why: str
    before_bytes: int
    after_bytes: int


class Ended(Struct, frozen=True, tag=True):
    """The last line."""

    outcome: Literal["done", "refused", "failed", "troubled", "expired"]
    why: str = ""
    after_ms: int = 0
    num_bytes: int = 0  # that came over the link


Said = Progress | Poisoned | Replanned | Ended


def manifest_file(folder: Path, reference: str) -> Path:
    """Where the manifest of `name@version` is once it was checked.

    Raises:
        UpdateRefused: this is none.
    """
    name, _, version = reference.partition("@")
    if not is_id(name) or not _VERSION.fullmatch(version):
        raise UpdateRefused(f"cannot use {reference!r}: a release is called name@version")
    return folder / "manifests" / f"{reference}.json"
