"""A llama model of random weights that is small enough to be loaded hundreds of times in a test."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes.adapters import encode
from tests.fakes.gguf_builder import GgufBuilder

LAYERS, HEADS, KV_HEADS = 2, 4, 2


def tiny_model(
    *,
    tokenizer: str = "gpt2",
    seed: int = 1,
    width: int = 64,
    dtype: str = "f16",
    context_tokens: int = 128,
    num_spare: int = 0,
    endless: bool = False,
) -> GgufBuilder:
    """A model of 2 layers, still open to changes; its tokenizer is "gpt2" or "llama".

    `num_spare` control tokens are in its vocabulary that nothing uses and that it never chooses: adapter slots need
    such ones. An `endless` one never ends an answer. With a `dtype` of "f32" its logits hardly depend on what else is
    in a batch.
    """
    ffn = width * 2
    tokens, kinds = _gpt2() if tokenizer == "gpt2" else _llama()
    tokens = tokens + [f"<|spare_{number}|>" for number in range(num_spare)]
    kinds = kinds + [3] * num_spare
    builder = GgufBuilder()
    builder.key("general.architecture", "string", "llama")
    builder.key("general.type", "string", "model")
    builder.key("general.name", "string", "tiny")
    for key, value in (
        ("block_count", LAYERS),
        ("context_length", context_tokens),
        ("embedding_length", width),
        ("feed_forward_length", ffn),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", width // HEADS),
        ("vocab_size", len(tokens)),
    ):
        builder.key(f"llama.{key}", "u32", value)
    builder.key("llama.rope.freq_base", "f32", 10000.0)
    builder.key("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)
    builder.key("tokenizer.ggml.model", "string", tokenizer)
    builder.key("tokenizer.ggml.pre", "string", "smollm" if tokenizer == "gpt2" else "default")
    builder.key("tokenizer.ggml.tokens", "[string]", tokens)
    builder.key("tokenizer.ggml.token_type", "[i32]", kinds)
    builder.key("tokenizer.ggml.scores", "[f32]", [float(-number) for number in range(len(tokens))])
    builder.key("tokenizer.ggml.merges", "[string]", ["a b", "c d", "ab cd"])
    builder.key("tokenizer.ggml.bos_token_id", "u32", 1)
    builder.key("tokenizer.ggml.eos_token_id", "u32", 2)
    builder.key("tokenizer.ggml.add_bos_token", "bool", False)
    spare = list(range(len(tokens) - num_spare, len(tokens)))
    never = [*([0, *spare] if spare else []), *([2, 4] if endless else [])]
    _add_tensors(builder, len(tokens), never, width, seed, dtype)
    return builder


def tiny_qwen2() -> GgufBuilder:
    """The same as a dense model of another architecture, with biases on q, k and v."""
    builder = tiny_model()
    builder.metadata = {str(key).replace("llama.", "qwen2."): raw for key, raw in builder.metadata.items()}
    builder.key("general.architecture", "string", "qwen2").key("tokenizer.ggml.pre", "string", "qwen2")
    for layer in range(LAYERS):
        for part in "qkv":
            width = builder.tensors[f"blk.{layer}.attn_{part}.weight"][1][1]
            builder.tensor(f"blk.{layer}.attn_{part}.bias", "f32", (width,))
    return builder


def write_tiny_model(path: Path, **how: Any) -> Path:
    """Writes the model that `tiny_model` makes and returns its path."""
    path.write_bytes(tiny_model(**how).build())
    return path


def _add_tensors(builder: GgufBuilder, num_vocab: int, never: list[int], width: int, seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)

    def matrix(name: str, *shape: int) -> None:
        builder.tensor(name, dtype, shape, encode(random.normal(0, shape[0] ** -0.5, shape), dtype))

    def ones(name: str) -> None:
        builder.tensor(name, "f32", (width,), encode(np.ones(width), "f32"))

    ffn, keys = width * 2, width // HEADS * KV_HEADS
    embedding = random.normal(0, width**-0.5, (num_vocab, width))
    embedding[never] = 0  # their logits are 0, which is never the best
    builder.tensor("token_embd.weight", dtype, (width, num_vocab), encode(embedding, dtype))
    for layer in range(LAYERS):
        ones(f"blk.{layer}.attn_norm.weight")
        for name, rows, columns in (
            ("attn_q", width, width), ("attn_k", width, keys), ("attn_v", width, keys), ("attn_output", width, width),
            ("ffn_gate", width, ffn), ("ffn_up", width, ffn), ("ffn_down", ffn, width),
        ):  # fmt: skip
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        ones(f"blk.{layer}.ffn_norm.weight")
    ones("output_norm.weight")


def _gpt2() -> tuple[list[str], list[int]]:
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        *map(chr, range(33, 127)),
        "Ġ",
        "Ċ",
        "ab",
        "cd",
        "abcd",
    ]
    return words, [3] * 5 + [1] * (len(words) - 5)


def _llama() -> tuple[list[str], list[int]]:
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab"]
    return words, [2, 3, 3] + [6] * 256 + [1] * 4
