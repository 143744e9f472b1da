"""What a node does to have the file of a release. Pure: a manifest and what is held in, steps out.

- Every content is fetched or copied once, however often the file has it.
- Of the sources that can be used with what is held, the smallest is taken, once, when the plan is made: a difference is
  never replaced by something larger without a new plan, whose bytes can be looked at again.
"""

from collections.abc import Container

from msgspec import Struct

from contract.release import Release, Segment, Source


class Step(Struct, frozen=True):
    """A segment to make, and where in the file it belongs. `source` is what to fetch; None: it is held already."""

    segment: Segment
    offsets: tuple[int, ...]
    source: Source | None


class Plan(Struct, frozen=True):
    """The steps in the order of the file, and what they fetch together."""

    steps: tuple[Step, ...]
    fetch_bytes: int


def plan_for(release: Release, held: Container[str], done: Container[str] = frozenset()) -> Plan:
    """The plan for a release.

    Args:
        release: what the file shall be.
        held: digests of segments that this node has elsewhere, whole.
        done: digests of segments that are in the file already.
    """
    steps = []
    for digest, offsets in offsets_of(release).items():
        if digest not in done:
            segment = offsets.segment
            source = None if digest in held else _smallest(segment, held)
            steps.append(Step(segment, tuple(offsets.starts), source))
    return Plan(tuple(steps), sum(step.source.bytes for step in steps if step.source))


class Offsets(Struct, frozen=True):
    """A segment and all places in the file where it starts."""

    segment: Segment
    starts: list[int]


def offsets_of(release: Release) -> dict[str, Offsets]:
    """The segments by digest, in the order of the file."""
    found: dict[str, Offsets] = {}
    at = 0
    for segment in release.segments:
        found.setdefault(segment.sha256, Offsets(segment, [])).starts.append(at)
        at += segment.bytes
    return found


def _smallest(segment: Segment, held: Container[str]) -> Source:
    usable = [source for source in segment.sources if source.base is None or source.base in held]
    return min(usable, key=lambda source: source.bytes)
