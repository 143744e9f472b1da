"""Segments and the objects that they travel as: `pack` and `unpack` are inverse. Pure.

What `unpack` returns has the segment's digest. It takes no more memory than a few segments whatever the bytes are: the
decompressor sees only bytes that have the source's digest, only where they announce the segment's size, and has no room
for more.
"""

import hashlib
from typing import TYPE_CHECKING

from contract.difference import Blocks, applied, difference
from contract.limits import MAX_SEGMENT_BYTES
from contract.release import Segment, Source

if TYPE_CHECKING:
    import zstandard

# Measured on differences of 4-bit weights (docs/adr/0055): 34 % at level 1, 29 % at 16, not less at 17 to 19. Unpacking
# is as quick at all levels.
ZSTD_LEVEL = 16
_XOR_BYTES = 1 << 16  # the numbers that a piece becomes stay in the processor's cache


class BadSegment(ValueError):
    """The release is at fault: a source is as it says, and still does not make its segment: "cannot make …"."""


class WrongBytes(BadSegment):
    """Who sent the bytes is at fault: they are not those of the source. From elsewhere the right ones may come."""


def pack(content: bytes, base: bytes | None = None, blocks: Blocks | None = None) -> tuple[Source, bytes]:
    """The smallest form of a segment that needs nothing else, or its difference to a segment of the same size.

    `blocks` says how numbers lie in both.
    """
    if base is not None and blocks is not None:
        packed = _compressor().compress(difference(base, content, blocks))
        return Source("blocks+zstd", sha256_of(packed), len(packed), sha256_of(base), blocks), packed
    if base is not None:
        packed = _compressor().compress(xor(base, content))
        return Source("xor+zstd", sha256_of(packed), len(packed), sha256_of(base)), packed
    packed = _compressor().compress(content)
    if len(packed) < len(content):
        return Source("zstd", sha256_of(packed), len(packed)), packed
    return Source("full", sha256_of(content), len(content)), content


def unpack(segment: Segment, source: Source, data: bytes | bytearray, base: bytes | None = None) -> bytes | bytearray:
    """The segment, made from the bytes of one of its sources, and from the segment `source.base` if there is one.

    Raises:
        WrongBytes: the bytes are not those of the source; says of which segment, and what is different.
        BadSegment: what they make is not the segment; says which and how.
    """
    if len(data) != source.bytes:
        raise WrongBytes(_why(segment, source, f"{len(data)} bytes came, not {source.bytes}"))
    found = sha256_of(data)
    if found != source.sha256:
        raise WrongBytes(_why(segment, source, f"what came has the SHA-256 {found}, not {source.sha256}"))
    if source.encoding == "full":
        return data
    content = _decompress(segment, source, data)
    if source.base is not None:
        if base is None or len(base) != segment.bytes:
            size = "nothing" if base is None else f"{len(base)} bytes"
            raise BadSegment(_why(segment, source, f"it is a difference to {segment.bytes} bytes, and there is {size}"))
        content = applied(base, content, source.blocks) if source.blocks else xor(base, content)
    found = sha256_of(content)
    if found != segment.sha256:
        raise BadSegment(_why(segment, source, f"it makes bytes with the SHA-256 {found}, not {segment.sha256}"))
    return content


def xor(one: bytes, other: bytes) -> bytes:
    """Each byte of one XOR that of the other; they are equally long."""
    made = bytearray(other)
    for at in range(0, len(made), _XOR_BYTES):
        piece = made[at : at + _XOR_BYTES]
        number = int.from_bytes(piece, "little") ^ int.from_bytes(one[at : at + _XOR_BYTES], "little")
        made[at : at + _XOR_BYTES] = number.to_bytes(len(piece), "little")
    return bytes(made)


def sha256_of(data: bytes | bytearray) -> str:
    """A digest as manifests have it."""
    return hashlib.sha256(data).hexdigest()


def _compressor() -> "zstandard.ZstdCompressor":
    import zstandard  # the daemon loads it with its first update

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL)


def _decompress(segment: Segment, source: Source, data: bytes | bytearray) -> bytes:
    import zstandard

    try:
        announced = zstandard.get_frame_parameters(data).content_size
        if announced != segment.bytes:  # the buffer is made as large as announced; nothing announced reads as 2**64 - 1
            raise BadSegment(_why(segment, source, f"its frame announces {announced} bytes, not {segment.bytes}"))
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_SEGMENT_BYTES)
        return reader.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadSegment(_why(segment, source, f"it cannot be decompressed: {error}")) from None


def _why(segment: Segment, source: Source, what: str) -> str:
    origin = f"from its {source.encoding} source {source.sha256[:12]}"
    return f"cannot make the segment {segment.name} ({segment.sha256[:12]}) {origin}: {what}"
