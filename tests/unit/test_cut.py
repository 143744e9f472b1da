import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contract.difference import BLOCKS
from contract.limits import MAX_SEGMENT_BYTES
from fleet.errors import UsageError
from fleet.releases.cut import LONE_BYTES, PIECE_BYTES, Cut, cuts_of
from fleet.releases.layout import LARGE_VALUE_BYTES, layout_of
from tests.fakes.gguf_builder import GgufBuilder, text
from tests.fakes.noise import noise
from tests.fakes.tiny_model import tiny_model


def cuts(raw: bytes) -> list[Cut]:
    """How a file is cut."""
    return cuts_of(layout_of(raw, "the file x"))


def contents(raw: bytes) -> dict[str, bytes]:
    """The segments of a file by name."""
    return {cut.name: raw[cut.start : cut.end] for cut in cuts(raw)}


def refusal(raw: bytes) -> str:
    """Why a file is not cut."""
    with pytest.raises(UsageError) as refused:
        cuts(raw)
    message = f"{refused.value}"
    assert message.startswith("cannot cut the file x: ")
    return message


def assert_tiled(raw: bytes) -> None:
    """Nothing is left out, nothing is there twice, nothing is empty or too large."""
    found = cuts(raw)
    assert [cut.start for cut in found] == [0, *(cut.end for cut in found[:-1])]
    assert found[-1].end == len(raw)
    assert all(0 < cut.end - cut.start <= MAX_SEGMENT_BYTES for cut in found)


def model() -> GgufBuilder:
    """Two layers with large and small tensors, an embedding of several segments, and a vocabulary."""
    builder = GgufBuilder().key("general.architecture", "string", "llama")
    builder.key("tokenizer.ggml.tokens", "[string]", [f"token {number}" for number in range(10_000)])
    builder.key("tokenizer.chat_template", "string", "{{ messages }}")
    builder.tensor("token_embd.weight", "f32", (1 << 20, 2), noise(8 << 20, 1))
    for layer in range(2):
        for number, (name, size) in enumerate([("norm", 64), ("up", LONE_BYTES), ("k", 4096), ("v", 4096)]):
            content = noise(size, 10 * layer + number)
            builder.tensor(f"blk.{layer}.{name}.weight", "f32", (size // 4,), content)
    return builder


def test_segments_follow_the_tensors() -> None:
    """A large one alone, in pieces from its beginning; small neighbours of a layer together; the vocabulary apart."""
    assert [cut.name for cut in cuts(model().build())] == [
        "metadata", "tokenizer.ggml.tokens", "metadata after tokenizer.ggml.tokens", "tensor table",
        "token_embd.weight#0", "token_embd.weight#1", "token_embd.weight#2",
        "blk.0.norm.weight", "blk.0.up.weight", "blk.0.k.weight",
        "blk.1.norm.weight", "blk.1.up.weight", "blk.1.k.weight",
    ]  # fmt: skip
    assert_tiled(model().build())


def test_no_block_of_numbers_is_divided() -> None:
    """What is subtracted from each other lies at the same places; several tensors in one segment have no blocks."""
    assert all(PIECE_BYTES % blocks.bytes == 0 for blocks in BLOCKS.values())
    builder = GgufBuilder().tensor("blk.0.a", "q4_1", (32, 4))
    builder.tensor("blk.1.a", "q8_0", (32, 4)).tensor("blk.1.b", "f32", (8,))
    found = {cut.name: cut.blocks for cut in cuts(builder.build())}
    assert found["blk.0.a"] == BLOCKS[3]
    assert found["blk.1.a"] is None


def test_an_edit_of_the_metadata_changes_no_other_segment() -> None:
    """Though everything behind it has moved."""
    before = contents(model().build())
    after = contents(model().key("tokenizer.chat_template", "string", "{{ messages }}" * 9).build())
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"metadata after tokenizer.ggml.tokens", "tensor table"}  # the table has the padding in it
    assert sum(len(after[name]) for name in changed) < 1000
    first = contents(model().key("general.architecture", "string", "llama with a longer name").build())
    assert {name for name in before if before[name] != first[name]} <= {"metadata", "tensor table"}


def test_a_new_tensor_changes_its_neighbours_at_most() -> None:
    """What stands in other layers, or is large, has the same segments as before."""
    builder = model()
    tensors = builder.tensors
    builder.tensors = {}
    builder.tensor("blk.0.bias", "f32", (8,)).tensors.update(tensors)
    before, after = contents(model().build()), contents(builder.build())
    assert {name for name in before if before[name] != after[name]} == {"metadata", "tensor table"}  # it has the count
    builder = model().tensor("blk.0.late", "f32", (8,), bytes(32))
    after = contents(builder.build())
    assert {name for name in before if before[name] != after[name]} == {"metadata", "tensor table"}


def test_small_tensors_without_end_still_make_bounded_segments() -> None:
    """A layer of small tensors that is larger than a segment is cut between two of them."""
    builder = GgufBuilder()
    size = LONE_BYTES - 32
    for number in range(80):
        builder.tensor(f"blk.0.expert.{number}", "f32", (size // 4,))
    found = cuts(builder.build())
    assert [cut.name for cut in found] == ["metadata", "tensor table", "blk.0.expert.0", "blk.0.expert.63"]
    assert_tiled(builder.build())


def test_odd_files_are_cut_all_the_same() -> None:
    """Without tensors or keys, with bytes behind, of another order or alignment; a list just large enough."""
    odd = tiny_model()
    odd.alignment = 4096
    odd.key("general.alignment", "u32", 4096)
    swapped = GgufBuilder().tensor("a", "f32", (8,)).tensor("b", "f32", (8,))
    swapped.offsets = {"a": 32, "b": 0}
    late = GgufBuilder().tensor("a", "f32", (64,))
    late.offsets = {"a": 64}
    trailing = tiny_model()
    trailing.trailing = b"and more"
    large = GgufBuilder().key("k", "[u8]", bytes(LARGE_VALUE_BYTES))
    for builder in (GgufBuilder(), odd, swapped, late, trailing, large, GgufBuilder().key("a", "u32", 1)):
        assert_tiled(builder.build())


def test_something_else_is_not_cut() -> None:
    """Another format, another version, a file that has lost its end."""
    assert "it does not begin as one" in refusal(b"GGML" + bytes(100))
    builder = tiny_model()
    builder.version = 1
    assert "version is 1" in refusal(builder.build())
    for num_bytes in (4, 20, 100, 3000):
        refusal(tiny_model().build()[:num_bytes])


def test_counts_and_lengths_are_not_believed() -> None:
    """They end at the end of the file, however large they are."""

    def builder(raw: bytes) -> bytes:
        made = tiny_model()
        made.metadata["s"] = raw
        return made.build()

    assert "beyond its end" in refusal(builder(struct.pack("<IQ", 8, 2**64 - 1)))
    assert "beyond its end" in refusal(builder(struct.pack("<IIQ", 9, 5, 2**62)))
    refusal(builder(struct.pack("<IIQ", 9, 8, 2**62)))
    assert "array of the type 9" in refusal(builder(struct.pack("<IIQ", 9, 9, 1)))
    assert "s has the type 77" in refusal(builder(struct.pack("<I", 77)))
    for keys, tensors in ((2**63, 1), (1, 2**63)):
        made = tiny_model()
        made.num_keys, made.num_tensors = keys, tensors
        refusal(made.build())


def test_names_and_places_must_make_sense() -> None:
    """Names are printed and compared, places are where segments begin."""
    assert "is the name 'a\\n'" in refusal(GgufBuilder().tensor("a\n", "f32", (8,)).build())
    assert "a name of 0 bytes" in refusal(GgufBuilder().tensor("", "f32", (8,)).build())
    assert "a name of 257 bytes" in refusal(GgufBuilder().key("k" * 257, "u32", 1).build())
    same = GgufBuilder().tensor("a", "f32", (8,)).tensor("b", "f32", (8,))
    same.offsets = {"b": 0}
    assert "the tensors a and b begin at the same byte" in refusal(same.build())
    same.offsets = {"b": 2**64 - 32}
    assert "the tensor b begins at byte" in refusal(same.build())
    twice = GgufBuilder().tensor("a", "f32", (8,)).tensor("b", "f32", (8,)).build().replace(text("b"), text("a"))
    assert "the tensor a is there twice" in refusal(twice)
    for alignment in (0, 2**32 - 1):
        assert f"alignment is {alignment}" in refusal(GgufBuilder().key("general.alignment", "u32", alignment).build())


@given(st.data())
def test_damaged_files_are_cut_or_refused(data: Any) -> None:
    """With a sentence, and never with parts that overlap."""
    raw = bytearray(tiny_model().build())
    end = raw.index(b"output_norm.weight") + 60
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, end))
        raw[at : at + 1] = data.draw(st.binary(max_size=9))
    assume(raw)
    try:
        cuts(bytes(raw))
    except UsageError as error:
        assert f"{error}".startswith("cannot cut the file x: ")
    else:
        assert_tiled(bytes(raw))
