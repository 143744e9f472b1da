"""Differences of tensors, from which what is new comes back whatever both versions are."""

import random
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.difference import BLOCKS, Blocks, applied, difference

Q4_1 = BLOCKS[3]


@given(st.sampled_from(sorted(BLOCKS)), st.data())
def test_what_is_new_comes_back(kind: int, data: st.DataObject) -> None:
    """For all formats and lengths, also those that end within a block."""
    size = data.draw(st.integers(0, 200))
    base, content = (
        data.draw(st.binary(min_size=size, max_size=size)),
        data.draw(st.binary(min_size=size, max_size=size)),
    )
    changes = difference(base, content, BLOCKS[kind])
    assert len(changes) == size
    assert applied(base, changes, BLOCKS[kind]) == content


def test_long_tensors_come_back() -> None:
    """Longer than what is computed at once."""
    source = random.Random(1)
    base, content = source.randbytes(300_007), source.randbytes(300_007)
    for blocks in BLOCKS.values():
        assert applied(base, difference(base, content, blocks), blocks) == content


def test_numbers_are_subtracted_as_numbers() -> None:
    """From 7 to 8 is one, from 0 to 15 is one less; a scale's bytes are in a plane each."""
    base = struct.pack("<HH", 0x00FF, 0x8000) + bytes([0x07, 0x0F]) + bytes(14)
    content = struct.pack("<HH", 0x0100, 0x7FFF) + bytes([0x08, 0xF0]) + bytes(14)
    changes = difference(base, content, Q4_1)
    assert changes[:4] == bytes([0x01, 0x00, 0xFF, 0xFF])
    assert changes[4:6] == bytes([0x01, 0xF1])
    assert not any(changes[6:])


def test_what_is_equal_is_nothing() -> None:
    """All zeros, which pack to nothing."""
    base = random.Random(2).randbytes(2003)
    assert not any(difference(base, base, Q4_1))


@pytest.mark.parametrize(
    "text",
    [
        '{"bytes":1,"num_scales":1,"bits":4}',
        '{"bytes":3,"num_scales":2,"bits":4}',
        '{"bytes":20,"num_scales":2,"bits":5}',
        '{"bytes":20,"num_scales":0,"bits":4}',
    ],
)
def test_blocks_that_cannot_be_are_refused(text: str) -> None:
    """Before anything is computed with them."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Blocks)
