"""What a node can hand to its neighbours of one file, and how they are told."""

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from contract.release import Release


class Lot(Struct, frozen=True):
    """A file of a release, and the numbers of the segments that are in it; None: all."""

    release: Release
    path: Path
    done: frozenset[int] | None = None


def flags_of(done: Iterable[int], num_segments: int) -> bytes:
    """A bit for each segment: whether it is there."""
    flags = bytearray((num_segments + 7) // 8)
    for number in done:
        flags[number // 8] |= 1 << number % 8
    return bytes(flags)


def is_set(flags: bytes, number: int) -> bool:
    """Whether the bit of a segment is set. Flags that are too short have none."""
    return number // 8 < len(flags) and bool(flags[number // 8] >> number % 8 & 1)
