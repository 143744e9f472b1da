"""The cut of a file into segments. Pure.

What it is for: two files with an equal tensor have equal segments for it, whatever stands before, and a segment that
differs has the same size as its predecessor. So

- a tensor of `LONE_BYTES` or more has segments of its own, cut at multiples of `MAX_SEGMENT_BYTES` from its beginning;
- smaller neighbours of the same layer share one, because an object for each of hundreds of small tensors costs more in
  requests than what their equality saves;
- before the tensors, long lists (the vocabulary) have segments of their own, apart from what people edit.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from contract.limits import MAX_SEGMENT_BYTES
from fleet.releases.layout import Layout, Span

LONE_BYTES = 256 * 1024
_LAYER = re.compile(r"blk\.\d+\.")


class Cut(NamedTuple):
    """A piece of the file that becomes a segment."""

    name: str
    start: int
    end: int


def cuts_of(layout: Layout) -> list[Cut]:
    """The pieces, in order and without gaps."""
    first_tensor = layout.tensors[0].start if layout.tensors else layout.num_bytes
    wholes = [*_ended(layout.head, first_tensor), *_grouped(_ended(layout.tensors, layout.num_bytes))]
    return [piece for whole in wholes for piece in _pieces(whole)]


def _ended(spans: list[Span], last_end: int) -> list[Cut]:
    ends = [*(span.start for span in spans[1:]), last_end]
    return [Cut(span.name, span.start, end) for span, end in zip(spans, ends, strict=False)]  # not one span: no cut


def _grouped(tensors: list[Cut]) -> Iterator[Cut]:
    """Small neighbours of one layer as one, named after the first."""
    group: Cut | None = None
    for tensor in tensors:
        is_lone = tensor.end - tensor.start >= LONE_BYTES
        if group and (is_lone or not _fits(group, tensor)):
            yield group
            group = None
        if is_lone:
            yield tensor
        else:
            group = group._replace(end=tensor.end) if group else tensor
    if group:
        yield group


def _fits(group: Cut, tensor: Cut) -> bool:
    return _layer(group.name) == _layer(tensor.name) and tensor.end - group.start <= MAX_SEGMENT_BYTES


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    return found[0] if found else ""


def _pieces(whole: Cut) -> Iterator[Cut]:
    for index, start in enumerate(range(whole.start, whole.end, MAX_SEGMENT_BYTES)):
        name = f"{whole.name}#{index}" if whole.end - whole.start > MAX_SEGMENT_BYTES else whole.name
        yield Cut(name, start, min(start + MAX_SEGMENT_BYTES, whole.end))
