"""A file becomes the segments of a release: cut, packed in the smallest form, and stored as objects."""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contract.limits import MAX_SOURCES
from contract.release import File, Release, Segment, Source
from contract.segments import BadSegment, pack, sha256_of, unpack
from fleet.errors import FolderError, UsageError
from fleet.releases.cut import Cut, cuts_of
from fleet.releases.layout import layout_of
from fleet.releases.objects import Objects


def store_file(path: Path, objects: Objects, earlier: Sequence[Release] = ()) -> tuple[File, list[Segment]]:
    """Cuts a GGUF file and stores its objects; those that are there are not made again.

    A segment that an earlier release has is taken over with its sources. One that differs gets a difference to the part
    of the same name and size of each earlier release, where that is smaller than what needs nothing else.

    Raises:
        UsageError: the file cannot be read or is no GGUF file.
        FolderError: objects cannot be stored, or one of an earlier release is missing or damaged.
    """
    with mapped(path) as data, ThreadPoolExecutor(os.cpu_count()) as threads:
        whole = threads.submit(lambda: hashlib.sha256(data).hexdigest())
        cuts = cuts_of(layout_of(data, str(path)))
        digests = [sha256_of(data[cut.start : cut.end]) for cut in cuts]
        packer = _Packer(objects, earlier)
        # The threads read what they pack, and zstd works without the interpreter's lock: memory is a few segments each.
        first = dict(zip(reversed(digests), reversed(cuts), strict=True))
        sources = dict(zip(first, threads.map(lambda cut: packer.sources_of(cut, data), first.values()), strict=True))
        segments = [
            Segment(cut.name, digest, cut.end - cut.start, sources[digest])
            for cut, digest in zip(cuts, digests, strict=True)
        ]
        return File(whole.result(), len(data)), segments


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file.

    Raises:
        UsageError: it cannot be read or is empty.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise UsageError(f"cannot read {path}: {error}") from error


def contents(release: Release, objects: Objects) -> Iterator[bytes]:
    """The file of a release again, segment by segment.

    Raises:
        FolderError: an object is missing or damaged.
    """
    return (_content_of(segment, objects) for segment in release.segments)


def _content_of(segment: Segment, objects: Objects) -> bytes:
    alone = next(source for source in segment.sources if source.base is None)
    try:
        return bytes(unpack(segment, alone, objects.read(alone.sha256)))
    except BadSegment as error:
        raise FolderError(f"{error}; restore the object from a copy") from None


class _Packer:
    """Finds or makes the sources of segments. Used by several threads; it changes nothing but the folder."""

    def __init__(self, objects: Objects, earlier: Sequence[Release]) -> None:
        self._objects = objects
        self._known = {segment.sha256: segment for release in earlier for segment in release.segments}
        self._predecessors = [
            {(segment.name, segment.bytes): segment for segment in release.segments} for release in reversed(earlier)
        ]

    def sources_of(self, cut: Cut, data: mmap.mmap) -> list[Source]:
        """The sources of a piece: one that needs nothing else, then differences, all stored."""
        content = data[cut.start : cut.end]
        digest = sha256_of(content)
        known = self._known.get(digest)
        if known and all(self._objects.has(source.sha256) for source in known.sources):
            return known.sources
        alone, packed = pack(content)
        self._objects.put(alone.sha256, packed)
        sources = [alone]
        for predecessor in self._predecessors_of(cut, digest):
            if len(sources) == MAX_SOURCES:
                break
            difference, packed = pack(content, _content_of(predecessor, self._objects), cut.blocks)
            if difference.bytes < alone.bytes:
                self._objects.put(difference.sha256, packed)
                sources.append(difference)
        return sources

    def _predecessors_of(self, cut: Cut, digest: str) -> list[Segment]:
        """What differs in each earlier release under this name and size, each once, the latest release first."""
        found = [segments.get((cut.name, cut.end - cut.start)) for segments in self._predecessors]
        return list({segment.sha256: segment for segment in found if segment and segment.sha256 != digest}.values())
