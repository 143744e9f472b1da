"""A file and what is said of it become a release."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from contract.release import BadRelease, Facts, Release, decode_release, encode_release
from fleet.api.releases import NewRelease
from fleet.errors import UsageError
from fleet.releases.layout import Layout, layout_of
from fleet.releases.memory import memory_bytes
from fleet.releases.objects import Objects
from fleet.releases.segmenting import mapped, store_file

BASE_KEY = "shoal.adapter.base_sha256"
FACTS = Facts.__struct_fields__


def make_release(
    wanted: NewRelease, file: Path, objects: Objects, earlier: Sequence[Release], base_sha256: str | None
) -> tuple[Release, bytes]:
    """Cuts a file, stores its objects, and returns the release with the bytes of its manifest.

    `base_sha256`: what the publisher says an adapter was made for.

    Raises:
        UsageError: the file is no such file, or what is said of it cannot be.
        FolderError: objects cannot be stored, or one of an earlier release is damaged.
    """
    with mapped(file) as data:
        layout = layout_of(data, wanted.name)
    _check_kind(wanted, layout)
    facts: dict[str, Any] = {name: value for name, value in asdict(wanted).items() if name in FACTS}
    architecture = wanted.requires.architecture or _text(layout, "general.architecture")
    facts["requires"] = replace(wanted.requires, architecture=architecture)
    license_ = wanted.license or _license(layout)
    base = _base(layout, base_sha256) if wanted.kind == "adapter" else None
    memory = wanted.memory_bytes
    if memory is None:
        memory = memory_bytes(layout, wanted.context_tokens)
    whole, segments = store_file(file, objects, earlier)
    release = Release(
        name=wanted.name, version=wanted.version, kind=wanted.kind, file=whole, segments=segments, base_sha256=base,
        license=license_, memory_bytes=memory, **facts,
    )  # fmt: skip
    try:
        manifest = encode_release(release)
    except BadRelease as error:
        raise UsageError(f"cannot publish {release.reference}: {error}") from None
    return decode_release(manifest), manifest


def says_the_same(release: Release, wanted: NewRelease, base_sha256: str | None) -> bool:
    """Whether a release is what somebody wants to publish. What they leave out, it may have from its file."""
    given = {
        "license": (wanted.license, release.license),
        "memory_bytes": (wanted.memory_bytes, release.memory_bytes),
        "base_sha256": (base_sha256, release.base_sha256),
        "architecture": (wanted.requires.architecture, release.requires.architecture),
    }
    if any(theirs is not None and theirs != ours for theirs, ours in given.values()):
        return False
    requires = replace(wanted.requires, architecture=release.requires.architecture)
    same = replace(wanted, requires=requires)
    return (wanted.kind, wanted.sha256) == (release.kind, release.file.sha256) and all(
        getattr(same, name) == getattr(release, name) for name in FACTS
    )


def fetch_bytes(release: Release, held: Release | None = None) -> int:
    """What a node fetches that holds nothing, or an earlier release: the smallest source of each segment it lacks."""
    here = {segment.sha256 for segment in held.segments} if held else set[str]()
    return sum(
        min(source.bytes for source in segment.sources if source.base is None or source.base in here)
        for segment in {one.sha256: one for one in release.segments if one.sha256 not in here}.values()
    )


def _check_kind(wanted: NewRelease, layout: Layout) -> None:
    found = "adapter" if layout.values.get("general.type") == "adapter" else "model"
    if found != wanted.kind:
        raise UsageError(f"cannot publish {wanted.name} as a {wanted.kind}: the file is of {_article(found)}")
    if wanted.kind == "model" and wanted.base is not None:
        raise UsageError(f"cannot use the base {wanted.base}: a model has none")


def _base(layout: Layout, given: str | None) -> str:
    found = _text(layout, BASE_KEY)
    if found and given and found != given:
        raise UsageError(f"cannot publish for the base {given}: the file says that it was made for {found}")
    if not (found or given):
        raise UsageError(f"cannot tell for which model file this adapter is: it has no {BASE_KEY}; name it with --base")
    return str(found or given)


def _license(layout: Layout) -> str:
    found = _text(layout, "general.license")
    if not found:
        raise UsageError("cannot publish without a licence: the file names none; give one (SPDX) with --license")
    return found


def _text(layout: Layout, key: str) -> str | None:
    value = layout.values.get(key)
    return value if isinstance(value, str) and value else None


def _article(kind: str) -> str:
    return "an adapter" if kind == "adapter" else "a model"
