import re
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.weights.gguf import ArrayInfo, GgufError, HeadTooShort, Tensor, parse, strings_of
from agent.weights.head import read_head
from tests.fakes.adapters import make_adapter
from tests.fakes.gguf_builder import GgufBuilder, text
from tests.fakes.tiny_model import tiny_model


def small() -> GgufBuilder:
    """A sound file with a little of everything."""
    builder = GgufBuilder().key("general.architecture", "string", "llama").key("a", "u32", 7).key("b", "f32", 0.5)
    builder.key("c", "bool", 1).key("d", "[i32]", [1, -2]).key("e", "[string]", ["x", "", "zwölf"])
    return builder.tensor("one", "f32", (3,)).tensor("two", "q8_0", (64, 2))


def refusal(builder: GgufBuilder) -> str:
    """Why a file is refused."""
    with pytest.raises(GgufError) as refused:
        parse(builder.build(), label="the file x")
    message = str(refused.value)
    assert message.startswith("cannot use the file x: ")
    return message.removeprefix("cannot use the file x: ")


def test_a_sound_file_is_read() -> None:
    """Metadata with its types, tensors with absolute offsets."""
    raw = small().build()
    file = parse(raw)
    assert file.version == 3
    assert file.metadata["a"] == 7
    assert file.types == {
        "general.architecture": "string", "a": "u32", "b": "f32", "c": "bool", "d": "[i32]", "e": "[string]",
    }  # fmt: skip
    assert (file.metadata["b"], file.metadata["c"], file.metadata["d"]) == (0.5, True, (1, -2))
    strings = file.metadata["e"]
    assert isinstance(strings, ArrayInfo)
    assert strings_of(raw, strings) == [b"x", b"", "zwölf".encode()]
    begin = len(raw) - 32 - 160  # 12 bytes and their padding, 4 blocks of 34 and theirs
    assert file.tensors == {
        "one": Tensor("one", "f32", (3,), begin, 12),
        "two": Tensor("two", "q8_0", (64, 2), begin + 32, 136),
    }


def test_version_2_is_read_and_others_are_not() -> None:
    """Version 1 has other lengths; a high number is a file of the other byte order."""
    builder = small()
    builder.version = 2
    assert parse(builder.build()).version == 2
    for version in (0, 1, 4, 3 << 24):
        builder.version = version
        assert f"version is {version}" in refusal(builder)


def test_something_else_is_no_gguf_file() -> None:
    """Neither an empty file nor another format."""
    for raw in (b"", b"GG", b"GGML" + bytes(100)):
        with pytest.raises(GgufError, match="it is not a GGUF file"):
            parse(raw)


@pytest.mark.parametrize("cut", range(4, len(small().build()) - 32, 7))
def test_a_truncated_file_is_refused(cut: int) -> None:
    """Wherever it ends, as long as something is missing."""
    with pytest.raises(GgufError, match=r"it ends at byte|ends at byte"):
        parse(small().build()[:cut])


def test_counts_are_not_believed() -> None:
    """Neither huge ones, which would keep us busy, nor ones that are off by one."""
    for keys, tensors in ((2**63, 2), (6, 2**40)):
        builder = small()
        builder.num_keys, builder.num_tensors = keys, tensors
        assert f"{keys} keys and {tensors} tensors" in refusal(builder)
    for keys, tensors in ((5, 2), (7, 2), (6, 1), (6, 3)):
        builder = small()
        builder.num_keys, builder.num_tensors = keys, tensors
        refusal(builder)


def test_lengths_are_not_believed() -> None:
    """Of strings and arrays, also where a sum would overflow 64 bits."""
    builder = small()
    for length in (2**20 + 1, 2**63, 2**64 - 1):
        builder.metadata["s"] = struct.pack("<IQ", 8, length)
        assert f"s is a string of {length} bytes" in refusal(builder)
        builder.metadata["s"] = struct.pack("<IIQQ", 9, 8, 3, length)
        assert "it ends at byte" in refusal(builder)
    for length in (2**22 + 1, 2**62, 2**64 - 1):
        builder.metadata["s"] = struct.pack("<IIQ", 9, 5, length)
        assert f"s has {length} elements" in refusal(builder)
    builder.metadata["s"] = struct.pack("<IIQ", 9, 5, 2**20)
    assert "inside s" in refusal(builder)


def test_odd_values_are_refused() -> None:
    """Types that are unknown or nested, booleans that are neither, strings that are cut or no text."""
    for raw, why in (
        (struct.pack("<I", 13), "s has the unknown type 13"),
        (struct.pack("<IIQ", 9, 9, 1), "s is an array of the unknown type 9"),
        (struct.pack("<IB", 7, 2), "s is a bool of value 2"),
        (struct.pack("<I", 8) + text(b"a\0b"), "s has a NUL inside"),
        (struct.pack("<I", 8) + text(b"ab\xff"), "s is not UTF-8 at its byte 2"),
    ):
        builder = small()
        builder.metadata["s"] = raw
        assert why in refusal(builder)


def test_keys_and_names_are_unique_and_plain() -> None:
    """llama.cpp compares them as C strings."""
    builder = small()
    builder.raw_keys = text("a") + struct.pack("<II", 4, 8)
    builder.num_keys = 7
    assert refusal(builder) == "the key a is there twice"
    assert "key 6 is ''" in refusal(small().key("", "u32", 1))
    assert "key 6 is 'a\\n'" in refusal(small().key("a\n", "u32", 1))
    assert "key 6 has a NUL" in refusal(small().key("a\0", "u32", 1))
    assert "257 bytes; 256" in refusal(small().key("k" * 257, "u32", 1))
    assert "64 bytes; 63" in refusal(small().tensor("k" * 64, "f32", (1,)))
    assert "the name of tensor 2 is ''" in refusal(small().tensor("", "f32", (1,)))
    builder = small().tensor(b"on\xff", "f32", (3,))
    assert "not UTF-8" in refusal(builder)
    raw = small().tensor("oni", "f32", (3,)).build().replace(b"oni", b"one")
    with pytest.raises(GgufError, match="the tensor one is there twice"):
        parse(raw)


def test_alignment_is_one_that_llama_cpp_can_map() -> None:
    """A power of two from 32 on: below, a mapped tensor makes it abort."""
    for alignment in (64, 4096):
        builder = small()
        builder.alignment = alignment
        assert parse(builder.key("general.alignment", "u32", alignment).build()).alignment == alignment
    for alignment in (0, 1, 16, 33, 2**17):
        assert f"general.alignment is {alignment};" in refusal(small().key("general.alignment", "u32", alignment))
    assert "general.alignment is u64" in refusal(small().key("general.alignment", "u64", 32))
    assert "general.alignment is string" in refusal(small().key("general.alignment", "string", "32"))


def test_shapes_are_not_believed() -> None:
    """Dimensions are 1 to 4, positive, of whole blocks, and their product is inside the file."""
    for shape, why in (
        ((), "t has 0 dimensions"),
        ((1, 1, 1, 1, 1), "t has 5 dimensions"),
        ((0, 5), "t of type f32 cannot have the shape [0, 5]"),
        ((2**62, 4), "t ends at byte"),
        ((2**32, 2**32, 2**32, 2**32), "t ends at byte"),
        ((2**64 - 1,), "t ends at byte"),
    ):
        assert why in refusal(small().tensor("t", "f32", shape, b"1234"))
    assert "t of type q8_0 cannot have the shape [33, 2]" in refusal(small().tensor("t", "q8_0", (33, 2), bytes(70)))
    for kind in (4, 31, 43, 2**31):
        assert f"t has the unknown type {kind}" in refusal(small().tensor("t", kind, (2,), bytes(8)))


def test_tensors_follow_each_other() -> None:
    """No other offset than the next one: no gaps, no overlap, nothing outside."""
    for offset in (0, 1, 33, 64, 2**63, 2**64 - 32):
        builder = small()
        builder.offsets["two"] = offset
        assert refusal(builder) == f"two is at offset {offset}, but 32 is where it must be"
    builder = small()
    builder.trailing = bytes(32)
    assert "bytes behind its last tensor belong to none" in refusal(builder)


def test_the_beginning_of_a_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head is read without the tensors, and in larger portions until it is whole."""
    raw = tiny_model().build()
    with pytest.raises(HeadTooShort):
        parse(raw[:3000], file_bytes=len(raw))
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    sizes = []

    def read(head: bytes, size: int) -> int:
        sizes.append(len(head))
        return len(parse(head, file_bytes=size).tensors)

    monkeypatch.setattr("agent.weights.head.FIRST_HEAD_BYTES", 500)
    assert read_head(path, read) == len(parse(raw).tensors)
    assert sizes == [500, 2000, 8000]
    monkeypatch.setattr("agent.weights.head.MAX_HEAD_BYTES", 1000)
    with pytest.raises(HeadTooShort, match="beyond its first 2000 bytes"):
        read_head(path, read)


@given(st.binary(max_size=300), st.integers(0, 200), st.booleans())
def test_any_bytes_are_read_or_refused(junk: bytes, at: int, replace: bool) -> None:
    """No other exception comes out, whatever is in a file."""
    raw = small().build()
    for bad in (b"GGUF\x03\0\0\0" + junk, raw[:at] + junk + raw[at + len(junk) * replace :]):
        try:
            file = parse(bad)
        except GgufError as error:
            assert re.match(r"cannot use the GGUF file: .", str(error))
        else:
            assert all(tensor.offset + tensor.num_bytes <= len(bad) for tensor in file.tensors.values())


def test_parsing_is_fast(model: Path, tmp_path: Path) -> None:
    """A vocabulary of 49,152 tokens in well under 0.1 s, an adapter of 420 tensors in a few milliseconds."""

    def best_ms(raw: bytes, file_bytes: int) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            parse(raw, file_bytes=file_bytes)
            times.append((time.perf_counter() - started) * 1000)
        return min(times)

    adapter = make_adapter(tmp_path / "a.gguf", model).read_bytes()
    assert len(parse(adapter).tensors) == 420
    # Measured 7 and 0.8; the limits leave room for a busy machine.
    assert read_head(model, best_ms) < 100
    assert best_ms(adapter, len(adapter)) < 10
