"""The cut of a file into segments. Pure.

What it is for: two files with an equal tensor have equal segments for it, whatever stands before, and a segment that
differs has the same size as its predecessor. So

- a tensor of `LONE_BYTES` or more has segments of its own, cut at multiples of `PIECE_BYTES` from its beginning;
- smaller neighbours of the same layer share one, because an object for each of hundreds of small tensors costs more in
  requests than what their equality saves;
- before the tensors, long lists (the vocabulary) have segments of their own, apart from what people edit.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from contract.difference import Blocks
from contract.limits import MAX_SEGMENT_BYTES
from fleet.releases.layout import Layout, Span

LONE_BYTES = 64 * 1024
_BLOCKS_BYTES = 2**5 * 3**2 * 5 * 17  # whole blocks of all formats that are known, and whole floats
PIECE_BYTES = MAX_SEGMENT_BYTES // _BLOCKS_BYTES * _BLOCKS_BYTES
_LAYER = re.compile(r"blk\.\d+\.")


class Cut(NamedTuple):
    """A piece of the file that becomes a segment. `blocks`: how numbers lie in it, if they are all of one tensor."""

    name: str
    start: int
    end: int
    blocks: Blocks | None = None


def cuts_of(layout: Layout) -> list[Cut]:
    """The pieces, in order and without gaps."""
    first_tensor = layout.tensors[0].start if layout.tensors else layout.num_bytes
    wholes = [*_ended(layout.head, first_tensor), *_grouped(_ended(layout.tensors, layout.num_bytes))]
    return [piece for whole in wholes for piece in _pieces(whole)]


def _ended(spans: list[Span], last_end: int) -> list[Cut]:
    ends = [*(span.start for span in spans[1:]), last_end]
    # Not one span: no cut.
    return [Cut(span.name, span.start, end, span.blocks) for span, end in zip(spans, ends, strict=False)]


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
            group = group._replace(end=tensor.end, blocks=None) if group else tensor
    if group:
        yield group


def _fits(group: Cut, tensor: Cut) -> bool:
    return _layer(group.name) == _layer(tensor.name) and tensor.end - group.start <= PIECE_BYTES


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    return found[0] if found else ""


def _pieces(whole: Cut) -> Iterator[Cut]:
    for index, start in enumerate(range(whole.start, whole.end, PIECE_BYTES)):
        name = f"{whole.name}#{index}" if whole.end - whole.start > PIECE_BYTES else whole.name
        yield Cut(name, start, min(start + PIECE_BYTES, whole.end), whole.blocks)
