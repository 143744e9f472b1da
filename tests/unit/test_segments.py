import contextlib
import struct
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from contract.limits import MAX_SEGMENT_BYTES
from contract.release import Segment, Source
from contract.segments import BadSegment, WrongBytes, pack, sha256_of, unpack, xor
from tests.fakes.noise import noise

FRAME_MAGIC = struct.pack("<I", zstandard.MAGIC_NUMBER)


def of(content: bytes) -> Segment:
    """The segment of this content."""
    return Segment("blk.0.ffn_up.weight", sha256_of(content), len(content), [pack(content)[0]])


def source_of(encoding: str, data: bytes, base: bytes | None = None) -> Source:
    """A source of these bytes, whatever is in them."""
    told = {"encoding": encoding, "sha256": sha256_of(data), "bytes": len(data)}
    return msgspec.convert(told | ({} if base is None else {"base": sha256_of(base)}), Source)


@contextlib.contextmanager
def memory_below(num_bytes: int) -> Iterator[None]:
    """What is inside takes at most this, at its peak."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < num_bytes


@given(st.binary(min_size=1, max_size=200_000), st.binary(min_size=1, max_size=100))
def test_unpacking_gives_what_was_packed(content: bytes, change: bytes) -> None:
    """Alone and as a difference."""
    source, data = pack(content)
    assert source.bytes == len(data) <= len(content)
    assert unpack(of(content), source, data) == content
    base = xor(content[: len(change)], change[: len(content)]) + content[len(change) :]
    difference, data = pack(content, base)
    assert unpack(of(content), difference, data, base) == content


def test_the_smallest_form_is_chosen() -> None:
    """What cannot be compressed stays as it is; nearly equal segments differ by next to nothing."""
    random = noise(100_000)
    assert pack(random)[0].encoding == "full"
    assert pack(bytes(100_000))[0].encoding == "zstd"
    assert pack(random, b"x" + random[1:])[0].bytes < 100


@pytest.mark.parametrize("at", [0, 5000, 9999])
@pytest.mark.parametrize("encoding", ["full", "zstd", "xor+zstd"])
def test_a_flipped_byte_is_refused(encoding: str, at: int) -> None:
    """Wherever it is, and before it is decompressed."""
    base, content = noise(20_000, 1), noise(10_000, 2) + bytes(10_000)
    packed = {"full": content, "zstd": pack(content)[1], "xor+zstd": pack(content, base)[1]}[encoding]
    source = source_of(encoding, packed, base if encoding == "xor+zstd" else None)
    flipped = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
    with pytest.raises(WrongBytes, match=r"cannot make the segment blk.0.ffn_up.weight .* what came has the SHA-256"):
        unpack(of(content), source, flipped, base)


def test_another_range_of_the_file_is_refused() -> None:
    """As long as it should be or not."""
    file = noise(30_000)
    content = file[:10_000]
    source, _ = pack(content)
    with pytest.raises(WrongBytes, match="what came has the SHA-256"):
        unpack(of(content), source, file[10_000:20_000])
    with pytest.raises(WrongBytes, match="9999 bytes came, not 10000"):
        unpack(of(content), source, file[:9_999])
    with pytest.raises(WrongBytes, match="30000 bytes came, not 10000"):
        unpack(of(content), source, file)


def test_a_difference_to_something_else_is_refused() -> None:
    """Whether what is there has another content, another size, or is nothing."""
    base, content = noise(5000, 1), noise(5000, 2)
    source, data = pack(content, base)
    for other, why in ((noise(5000, 3), "it makes bytes with"), (base[1:], "there is 4999 bytes"), (None, "nothing")):
        with pytest.raises(BadSegment, match=why):
            unpack(of(content), source, data, other)


def test_compression_bombs_are_refused_unread() -> None:
    """A frame that announces more than the segment, that lies, that says nothing, or that others follow."""
    content = bytes(1000)
    honest = zstandard.ZstdCompressor().compress(content)
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(bomb) < 20_000
    lying = bytearray(bomb)
    flags = lying[4]
    assert flags >> 6 == 2  # four bytes of size; a window is described before them unless it is a single segment
    size_at = 5 if flags & 0x20 else 6
    lying[size_at : size_at + 4] = struct.pack("<I", len(content))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    for data, why in (
        (bomb, "announces 268435456 bytes, not 1000"),
        (bytes(lying), "it cannot be decompressed"),
        (silent, "announces 18446744073709551615 bytes, not 1000"),
        (honest + honest, "it cannot be decompressed"),
        (honest[:-1], "it cannot be decompressed"),
        (skippable + honest, "announces 4 bytes, not 1000"),
        (b"no frame", "it cannot be decompressed"),
    ):
        source = source_of("zstd", data)
        with pytest.raises(BadSegment, match=why) as refused, memory_below(100_000):
            unpack(of(content), source, data)
        assert not isinstance(refused.value, WrongBytes)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    """Also where the manifest vouches for them."""
    content = b"\0\1" * 50
    for junk in (data, FRAME_MAGIC + data):
        if junk:
            source = source_of("zstd", junk)
            with pytest.raises(BadSegment, match=r"^cannot make the segment"):
                unpack(of(content), source, junk)


def test_the_largest_segment_takes_a_bounded_memory() -> None:
    """Beside what came and what it is a difference to, four of its size: what is compressed, made and given."""
    base = noise(MAX_SEGMENT_BYTES, 1)
    content = noise(MAX_SEGMENT_BYTES // 2, 2) + base[MAX_SEGMENT_BYTES // 2 :]
    source, data = pack(content, base)
    segment = of(content)
    with memory_below(4 * MAX_SEGMENT_BYTES):
        assert unpack(segment, source, data, base) == content
