"""Tiny models whose memory is no plain key-value cache: recurrent (mamba), and with sliding windows (gemma2)."""

import numpy as np

from tests.fakes.adapters import encode
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.tiny_model import tiny_model

WIDTH, SEED = 64, 3
WINDOW_TOKENS = 32


class _Weights:
    """Adds tensors of random numbers, or of one number."""

    def __init__(self, builder: GgufBuilder) -> None:
        self._builder = builder
        self._random = np.random.default_rng(SEED)

    def matrix(self, name: str, *shape: int, size: float = 1.0) -> None:
        """Random numbers."""
        numbers = self._random.normal(0, size * shape[0] ** -0.5, shape)
        self._builder.tensor(name, "f32", shape, encode(numbers, "f32"))

    def same(self, name: str, number: float, *shape: int) -> None:
        """The same number everywhere."""
        self._builder.tensor(name, "f32", shape, encode(np.full(shape, number), "f32"))


def tiny_mamba(context_tokens: int = 512) -> GgufBuilder:
    """A recurrent model: its memory of a sequence has one size, and cannot be cut."""
    inner, state, rank = 128, 16, 4
    builder = _other("mamba", context_tokens)
    for key, number in (
        ("block_count", 2), ("feed_forward_length", 0), ("attention.head_count", 0), ("ssm.conv_kernel", 4),
        ("ssm.inner_size", inner), ("ssm.state_size", state), ("ssm.time_step_rank", rank),
    ):  # fmt: skip
        builder.key(f"mamba.{key}", "u32", number)
    for key in ("attention.head_count_kv", "rope.dimension_count"):
        del builder.metadata[f"mamba.{key}"]
    weights = _Weights(builder)
    for layer in range(2):
        begin = f"blk.{layer}."
        weights.same(begin + "attn_norm.weight", 1, WIDTH)
        weights.matrix(begin + "ssm_in.weight", WIDTH, 2 * inner, size=2)
        weights.matrix(begin + "ssm_conv1d.weight", 4, inner, size=2)
        weights.same(begin + "ssm_conv1d.bias", 0, inner)
        weights.matrix(begin + "ssm_x.weight", inner, rank + 2 * state, size=2)
        weights.matrix(begin + "ssm_dt.weight", rank, inner, size=2)
        weights.same(begin + "ssm_dt.bias", 0, inner)
        weights.same(begin + "ssm_a", -0.03, state, inner)  # it forgets slowly
        weights.same(begin + "ssm_d", 1, inner)
        weights.matrix(begin + "ssm_out.weight", inner, WIDTH, size=2)
    weights.same("output_norm.weight", 1, WIDTH)
    return builder


def tiny_gemma2(context_tokens: int = 512) -> GgufBuilder:
    """Every second layer of it remembers `WINDOW_TOKENS` tokens only."""
    ffn, layers = 128, 4
    builder = _other("gemma2", context_tokens)
    for key, number in (
        ("block_count", layers), ("attention.sliding_window", WINDOW_TOKENS), ("attention.key_length", 16),
        ("attention.value_length", 16),
    ):  # fmt: skip
        builder.key(f"gemma2.{key}", "u32", number)
    builder.key("gemma2.attn_logit_softcapping", "f32", 50.0)
    builder.key("gemma2.final_logit_softcapping", "f32", 30.0)
    weights = _Weights(builder)
    for layer in range(layers):
        begin = f"blk.{layer}."
        for name, rows, columns in (
            ("attn_q", WIDTH, 64), ("attn_k", WIDTH, 32), ("attn_v", WIDTH, 32), ("attn_output", 64, WIDTH),
            ("ffn_gate", WIDTH, ffn), ("ffn_up", WIDTH, ffn), ("ffn_down", ffn, WIDTH),
        ):  # fmt: skip
            weights.matrix(f"{begin}{name}.weight", rows, columns)
        for name, number in (
            ("attn_norm", 1), ("ffn_norm", 1), ("post_attention_norm", 6), ("post_ffw_norm", 6),
        ):  # fmt: skip
            weights.same(f"{begin}{name}.weight", number, WIDTH)
    weights.same("output_norm.weight", 1, WIDTH)
    return builder


def _other(architecture: str, context_tokens: int) -> GgufBuilder:
    """The tiny model's vocabulary and sizes under another architecture, without layers."""
    builder = tiny_model(dtype="f32", num_spare=1, context_tokens=context_tokens, endless=True)
    builder.key("general.architecture", "string", architecture)
    for key in [key for key in builder.metadata if isinstance(key, str) and key.startswith("llama.")]:
        builder.metadata[f"{architecture}.{key.removeprefix('llama.')}"] = builder.metadata.pop(key)
    embedding = builder.tensors["token_embd.weight"]
    builder.tensors.clear()
    builder.tensors["token_embd.weight"] = embedding
    return builder
