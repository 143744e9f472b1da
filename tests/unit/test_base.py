from pathlib import Path

import pytest

from agent.errors import ModelError
from agent.weights.base_model import Base, read_base, read_base_file
from agent.weights.gguf import GgufError
from agent.weights.memory import memory_bytes
from tests.fakes.adapters import make_adapter
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.tiny_model import tiny_model, write_tiny_model


def facts(builder: GgufBuilder) -> Base:
    """What is read from a file."""
    return read_base(builder.build())


def refusal(builder: GgufBuilder) -> str:
    """Why a file is refused."""
    with pytest.raises(GgufError) as refused:
        facts(builder)
    assert isinstance(refused.value, ModelError)
    return str(refused.value).removeprefix("cannot use the model: ")


def other(architecture: str, tokenizer: str = "gpt2") -> GgufBuilder:
    """The tiny model as if it were of another architecture."""
    builder = tiny_model(tokenizer=tokenizer)
    builder.metadata = {
        str(key).replace("llama.", f"{architecture}."): content for key, content in builder.metadata.items()
    }
    return builder.key("general.architecture", "string", architecture)


def without(builder: GgufBuilder, name: str) -> GgufBuilder:
    """The same without a key or tensor."""
    if name in builder.metadata:
        del builder.metadata[name]
    else:
        del builder.tensors[name]
    return builder


def test_the_default_model_is_described(model: Path) -> None:
    """All facts of a real file; its shape is that of its model card."""
    base = read_base_file(model)
    assert (base.architecture, base.kind, base.num_layers, base.num_vocab) == ("llama", "decoder", 30, 49152)
    assert (base.embedding_length, base.ffn_length, base.num_heads, base.num_kv_heads) == (576, 1536, 9, 3)
    assert (base.head_k_length, base.head_v_length, base.trained_context_tokens) == (64, 64, 8192)
    assert base.kv_bytes_per_token == 30 * 3 * (64 + 64) * 2
    assert base.num_bytes == model.stat().st_size
    assert base.num_bytes - 2**21 < base.tensor_bytes < base.num_bytes
    assert base.slots_obstacle is None
    assert len(base.linear) == 30 * 7
    assert base.linear["blk.29.ffn_down.weight"] == (1536, 576)
    assert base.linear["blk.0.attn_k.weight"] == (576, 192)


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_a_tiny_model_is_described(tokenizer: str) -> None:
    """Also one with the other kind of vocabulary; its embedding and norms are no linear tensors."""
    base = facts(tiny_model(tokenizer=tokenizer))
    assert base.num_layers == 2
    assert set(base.linear) == {
        f"blk.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }


def test_what_is_no_base_model_is_named(tmp_path: Path) -> None:
    """An adapter, a part of a model, an architecture with two halves, a file that speaks of nothing."""
    base = write_tiny_model(tmp_path / "base.gguf")
    with pytest.raises(GgufError, match=r"the model .*a\.gguf: general.type is 'adapter', not 'model'"):
        read_base_file(make_adapter(tmp_path / "a.gguf", base))
    assert "one of 3 parts" in refusal(tiny_model().key("split.count", "u16", 3))
    assert "architecture is t5: it has an encoder and a decoder" in refusal(other("t5"))
    assert "general.architecture is missing" in refusal(GgufBuilder())
    assert "general.architecture is missing" in refusal(tiny_model().key("general.architecture", "u32", 1))
    with pytest.raises(OSError, match="nothing"):
        read_base_file(tmp_path / "nothing.gguf")


@pytest.mark.parametrize(
    ("key", "kind", "content", "why"),
    [
        ("block_count", "u32", 0, "llama.block_count is 0; 1 to 511"),
        ("block_count", "u32", 512, "llama.block_count is 512; 1 to 511"),
        ("block_count", "u64", 2, "llama.block_count is u64, not u32"),
        ("block_count", "u32", 3, "the tensor blk.2.attn_norm.weight is missing"),
        ("embedding_length", "u32", 32, "but the metadata asks for"),
        ("embedding_length", "string", "64", "llama.embedding_length is string, not u32"),
        ("context_length", "u32", 0, "llama.context_length is 0"),
        ("attention.head_count", "u32", 0, "one number above 0"),
        ("attention.head_count", "u32", 3, "3 heads cannot share 2 key-value heads"),
        ("attention.head_count", "[u32]", [4, 2], "one number above 0 for all layers"),
        ("attention.head_count", "[u32]", [4], "has 1 numbers"),
        ("attention.head_count", "[f32]", [4.0, 4.0], "neither u32 nor an array of it"),
        ("attention.key_length", "u32", 8, "but the metadata asks for"),
        ("attention.value_length", "u32", 8, "16 key, 8 value and 16 rotated"),
        ("rope.dimension_count", "u32", 8, "16 key, 16 value and 8 rotated"),
        ("rope.scaling.type", "string", "magic", "rope.scaling.type is 'magic'"),
        ("rope.freq_base", "f32", 0.0, "rope.freq_base is 0.0; it must be a number above 0"),
        ("rope.freq_base", "f32", float("nan"), "rope.freq_base is nan"),
        ("attention.layer_norm_rms_epsilon", "f32", -1.0, "epsilon is -1.0; 0 to 1"),
        ("attention.layer_norm_rms_epsilon", "f64", 1e-5, "missing or not f32"),
        ("something.new", "f32", float("inf"), "llama.something.new is inf"),
        ("expert_count", "u32", 2000, "llama.expert_count is 2000"),
        ("expert_count", "u32", 8, "it uses 0 of 8 experts"),
        ("expert_used_count", "u32", 2, "it uses 2 of 0 experts"),
        ("feed_forward_length", "u32", 64, "but the metadata asks for"),
    ],
)
def test_numbers_that_llama_cpp_asserts_are_looked_at(key: str, kind: str, content: object, why: str) -> None:
    """Each of these would end the process, be refused, or be computed with in another shape than the tensors have."""
    assert why in refusal(tiny_model().key(f"llama.{key}", kind, content))


@pytest.mark.parametrize(
    ("key", "kind", "content", "why"),
    [
        ("model", "string", "t5", "its tokenizer is 't5'; known are"),
        ("model", "u32", 1, "its tokenizer is 1"),
        ("tokens", "[string]", [], "tokenizer.ggml.tokens is missing"),
        ("tokens", "string", "abc", "tokenizer.ggml.tokens is string"),
        ("tokens", "[string]", ["a"], "elements for 1 tokens"),
        ("token_type", "[u32]", [1] * 104, "tokenizer.ggml.token_type is [u32]"),
        ("scores", "[f32]", [0.0], "tokenizer.ggml.scores has 1 elements for 104 tokens"),
        ("bos_token_id", "u32", 104, "tokenizer.ggml.bos_token_id is 104, but there are 104 tokens"),
        ("eos_token_id", "string", "x", "tokenizer.ggml.eos_token_id is 'x'"),
    ],
)
def test_the_vocabulary_is_looked_at(key: str, kind: str, content: object, why: str) -> None:
    """Lengths, types and special tokens."""
    assert why in refusal(tiny_model().key(f"tokenizer.ggml.{key}", kind, content))


def test_tokens_are_unique() -> None:
    """llama.cpp asserts it, after it has cut texts at a NUL and named empty ones after their number."""
    for texts, twice in (
        (["a", "b", "a"], 1),
        (["a", b"a\0b", b"a\0c"], 2),
        (["x", "", "[EMPTY_1]"], 1),
        (["x", b"\0", "[EMPTY_1]"], 1),
        (["", "", "[EMPTY_2]"], 0),
    ):
        builder = tiny_model().key("tokenizer.ggml.tokens", "[string]", texts)
        for key in ("bos", "eos"):
            builder.key(f"tokenizer.ggml.{key}_token_id", "u32", 0)
        without(without(builder, "tokenizer.ggml.token_type"), "tokenizer.ggml.scores")
        why = refusal(builder)  # at the latest because the embedding is larger
        assert (f"{twice} of its 3 tokens are there twice" in why) == bool(twice)


def test_a_vocabulary_can_spell_every_byte() -> None:
    """With SentencePiece tokens a byte without a token throws through the C API."""
    builder = tiny_model(tokenizer="llama")
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(255)), "a", "▁", "c", "d", "e"]
    assert "no token for 1 of 256 bytes, first 255" in refusal(builder.key("tokenizer.ggml.tokens", "[string]", texts))


def test_a_bert_vocabulary_has_no_byte_tokens_but_special_ones() -> None:
    """llama.cpp aborts where it should spell a byte, and asserts the tokens around a text."""
    builder = other("bert").key("tokenizer.ggml.model", "string", "bert")
    base = facts(builder)
    assert (base.kind, base.kv_bytes_per_token) == ("encoder", 0)
    assert "seperator_token_id is 104" in refusal(builder.key("tokenizer.ggml.seperator_token_id", "u32", 104))
    builder.key("tokenizer.ggml.seperator_token_id", "u32", 3)
    assert "has byte tokens" in refusal(builder.key("tokenizer.ggml.token_type", "[i32]", [6] * 104))


def test_tensors_of_a_llama_are_there_and_fit() -> None:
    """Each required one, in the shape that is computed with, and of a type that can be."""
    assert "the tensor output_norm.weight is missing" in refusal(without(tiny_model(), "output_norm.weight"))
    assert "the tensor token_embd.weight is missing" in refusal(without(tiny_model(), "token_embd.weight"))
    assert "the tensor blk.1.attn_k.weight is missing" in refusal(without(tiny_model(), "blk.1.attn_k.weight"))
    assert "ffn_up.weight has the shape (128, 64)" in refusal(
        tiny_model().tensor("blk.0.ffn_up.weight", "f16", (128, 64))
    )
    assert "for 104 tokens" in refusal(tiny_model().tensor("token_embd.weight", "f16", (64, 103)))
    assert "output.weight has the shape (64, 9)" in refusal(tiny_model().tensor("output.weight", "f16", (64, 9)))
    for kind in ("i32", "f64", "i8"):
        assert "is none for weights" in refusal(tiny_model().tensor("blk.0.ffn_up.weight", kind, (64, 128)))
    assert "must be f32" in refusal(tiny_model().tensor("blk.0.attn_norm.weight", "f16", (64,)))
    assert facts(tiny_model().tensor("output.weight", "q8_0", (64, 104))).linear["output.weight"] == (64, 104)


def test_other_architectures_are_described() -> None:
    """With the sizes that are theirs. Layers of dense ones are alike; in others heads may differ, and be none."""
    base = facts(other("qwen2"))
    assert (base.architecture, base.kind) == ("qwen2", "decoder")
    builder = other("lfm2").key("lfm2.attention.head_count_kv", "[i32]", [0, 2])
    base = facts(builder)
    assert (base.num_kv_heads, base.kv_bytes_per_token) == (2, 2 * 2 * 16 * 2)
    assert "blk.1.attn_q.weight has the shape None, blk.0.attn_q.weight (64, 64)" in refusal(
        without(other("qwen2"), "blk.1.attn_q.weight")
    )
    assert "blk.0.attn_q.bias (64,)" in refusal(other("qwen2").tensor("blk.0.attn_q.bias", "f32", (64,)))
    assert "blk.2.attn_q.bias belongs to none" in refusal(other("qwen2").tensor("blk.2.attn_q.bias", "f32", (64,)))
    nothing = without(without(other("phi3"), "blk.0.attn_k.weight"), "blk.1.attn_k.weight")
    assert "its first layer lacks attn_qkv.weight" in refusal(nothing)
    for rotated in (0, 7, 18):
        assert f"{rotated} rotated" in refusal(other("gemma3").key("gemma3.rope.dimension_count", "u32", rotated))
    assert "8 rotated" in refusal(other("qwen3").key("qwen3.rope.dimension_count", "u32", 8))
    assert facts(other("phi3").key("phi3.rope.dimension_count", "u32", 8)).architecture == "phi3"
    builder = without(other("mamba"), "mamba.attention.head_count")
    assert facts(without(builder, "mamba.attention.head_count_kv")).kv_bytes_per_token == 0


def test_what_keeps_adapters_out_of_slots() -> None:
    """Each of the things that the rewritten model could not have."""

    def obstacle(builder: GgufBuilder) -> str:
        return facts(builder).slots_obstacle or ""

    assert obstacle(tiny_model()) == ""
    assert obstacle(other("qwen2")) == "the architecture is qwen2, not llama"
    assert "the bias blk.0.attn_q.bias" in obstacle(tiny_model().tensor("blk.0.attn_q.bias", "f32", (64,)))
    assert "the rotation factors rope_freqs" in obstacle(tiny_model().tensor("rope_freqs.weight", "f32", (8,)))
    mixed = tiny_model().tensor("blk.1.attn_v.weight", "q8_0", (64, 32))
    assert obstacle(mixed) == "q, k and v of layer 1 have the types f16, f16, q8_0"
    assert "finetuned is false" in obstacle(tiny_model().key("llama.rope.scaling.finetuned", "bool", 0))
    fused = tiny_model()
    for layer in range(2):
        for part in "qkv":
            del fused.tensors[f"blk.{layer}.attn_{part}.weight"]
        fused.tensor(f"blk.{layer}.attn_qkv.weight", "f16", (64, 128))
    assert obstacle(fused) == "q, k and v of layer 0 are one tensor"
    experts = tiny_model().key("llama.expert_count", "u32", 2).key("llama.expert_used_count", "u32", 1)
    for layer in range(2):
        experts.tensor(f"blk.{layer}.ffn_gate_inp.weight", "f32", (64, 2))
        experts.tensor(f"blk.{layer}.ffn_up_exps.weight", "f16", (64, 128, 2))
        experts.tensor(f"blk.{layer}.ffn_down_exps.weight", "f16", (128, 64, 2))
    assert obstacle(experts) == "it has 2 experts"


def test_memory_grows_with_what_is_asked_for() -> None:
    """The file, the key-value memory and the adapters count in full."""
    base = facts(tiny_model())
    one = memory_bytes(base, 1000, 100)
    assert memory_bytes(base, 3000, 100) - one == 2000
    assert memory_bytes(base, 1000, 300) - one == 200 * base.kv_bytes_per_token
    assert memory_bytes(base, 1000, 100, sequences=2) - one == 2 * base.num_vocab * 4
