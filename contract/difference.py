"""What is different between two versions of a tensor, in a form that packs well. Pure.

Quantised tensors are blocks: one or two 16-bit scales, then small numbers. After fine-tuning a scale has changed by
little and most small numbers not at all, or by one. XOR hides that: from 7 to 8 all four bits differ. So numbers are
subtracted as numbers, each in its own width, and scales stand apart from what they scale: what packs alike stands
together. Measured on Q4_1: 28 % of the layers' bytes where XOR has 35 %.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

_PIECE_BYTES = 1 << 16  # the numbers that a piece becomes stay in the processor's cache
_HIGH_BITS = {4: b"\x88", 8: b"\x80", 16: b"\x00\x80"}


class Blocks(Struct, frozen=True):
    """How numbers lie in a tensor: each block begins with 16-bit numbers, and the others have `bits` bits."""

    bytes: Annotated[int, Meta(ge=2, le=1024)]
    num_scales: Annotated[int, Meta(ge=1, le=2)]
    bits: Literal[4, 8]

    def __post_init__(self) -> None:
        if self.scale_bytes > self.bytes:
            raise ValueError(f"{self.num_scales} scales do not fit a block of {self.bytes} bytes")

    @property
    def scale_bytes(self) -> int:
        """How many bytes of a block are scales."""
        return 2 * self.num_scales


# ggml's types by number: those whose blocks are scales and numbers of one width.
BLOCKS = {
    1: Blocks(2, 1, 8),  # F16: scales only
    2: Blocks(18, 1, 4),  # Q4_0
    3: Blocks(20, 2, 4),  # Q4_1
    8: Blocks(34, 1, 8),  # Q8_0
    30: Blocks(2, 1, 8),  # BF16
}


def difference(base: bytes, content: bytes, blocks: Blocks) -> bytes:
    """Both are equally long, and so is what is returned: planes of the scales' bytes, the other numbers, the rest."""
    old_scales, old_numbers, old_rest = _parts(base, blocks)
    scales, numbers, rest = _parts(content, blocks)
    changes = _subtracted(scales, old_scales, 16)
    planes = [changes[plane :: blocks.scale_bytes] for plane in range(blocks.scale_bytes)]
    return b"".join([*planes, _subtracted(numbers, old_numbers, blocks.bits), _subtracted(rest, old_rest, 8)])


def applied(base: bytes, changes: bytes, blocks: Blocks) -> bytes:
    """The content of which `changes` is the difference to `base`."""
    old_scales, old_numbers, old_rest = _parts(base, blocks)
    num_blocks = len(base) // blocks.bytes
    scales = bytearray(len(old_scales))
    for plane in range(blocks.scale_bytes):
        scales[plane :: blocks.scale_bytes] = changes[plane * num_blocks : (plane + 1) * num_blocks]
    rest_at = len(scales) + len(old_numbers)
    new_scales = _added(scales, old_scales, 16)
    numbers = _added(changes[len(scales) : rest_at], old_numbers, blocks.bits)
    made, whole = bytearray(base), num_blocks * blocks.bytes
    for at in range(blocks.bytes):
        part, number, width = _place(at, new_scales, numbers, blocks)
        made[at : whole : blocks.bytes] = part[number::width]
    made[whole:] = _added(changes[rest_at:], old_rest, 8)
    return bytes(made)


def _parts(data: bytes, blocks: Blocks) -> tuple[bytes, bytes, bytes]:
    """The scales of all blocks, the other numbers of all blocks, and what is left at the end."""
    num_blocks = len(data) // blocks.bytes
    whole = num_blocks * blocks.bytes
    scales = bytearray(num_blocks * blocks.scale_bytes)
    numbers = bytearray(whole - len(scales))
    for at in range(blocks.bytes):
        part, number, width = _place(at, scales, numbers, blocks)
        part[number::width] = data[at : whole : blocks.bytes]
    return bytes(scales), bytes(numbers), data[whole:]


def _place(at: int, scales: bytearray, numbers: bytearray, blocks: Blocks) -> tuple[bytearray, int, int]:
    """Where the byte `at` of each block belongs: in which part, at which place of how many."""
    if at < blocks.scale_bytes:
        return scales, at, blocks.scale_bytes
    return numbers, at - blocks.scale_bytes, blocks.bytes - blocks.scale_bytes


def _subtracted(one: bytes, other: bytes, bits: int) -> bytearray:
    """Numbers of so many bits, each minus the other, modulo 2**bits: all of a piece in one large number."""
    made = bytearray(one)
    for at in range(0, len(one), _PIECE_BYTES):
        a, b, length = _numbers(one, other, at)
        high = _high_bits(length, bits)
        a = ((a | high) - (b & ~high)) ^ ((a ^ ~b) & high)
        made[at : at + length] = a.to_bytes(length, "little")
    return made


def _added(one: bytes | bytearray, other: bytes, bits: int) -> bytearray:
    """The inverse."""
    made = bytearray(one)
    for at in range(0, len(one), _PIECE_BYTES):
        a, b, length = _numbers(one, other, at)
        high = _high_bits(length, bits)
        a = ((a & ~high) + (b & ~high)) ^ ((a ^ b) & high)
        made[at : at + length] = a.to_bytes(length, "little")
    return made


def _numbers(one: bytes | bytearray, other: bytes, at: int) -> tuple[int, int, int]:
    piece = one[at : at + _PIECE_BYTES]
    return int.from_bytes(piece, "little"), int.from_bytes(other[at : at + len(piece)], "little"), len(piece)


def _high_bits(length: int, bits: int) -> int:
    """The highest bit of each number in so many bytes."""
    one = _HIGH_BITS[bits]
    return int.from_bytes(one * (length // len(one)), "little")
