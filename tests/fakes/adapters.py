"""LoRA adapters with random weights for a base model, valid unless a test spoils them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.weights.gguf import parse
from agent.weights.head import read_head
from tests.fakes.gguf_builder import GgufBuilder

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def make_adapter(
    path: Path,
    base_gguf_path: Path,
    *,
    rank: int = 8,
    seed: int = 1,
    scale: float = 0.4,
    alpha: float = 16.0,
    layers: list[int] | None = None,
    tensors: tuple[str, ...] = LINEAR,
    activation: str | None = None,
    dtype: str = "f16",
) -> Path:
    """Writes an adapter for the base model and returns its path. The same arguments make the same bytes.

    `scale` is the size of its change to a layer's output as a share of what comes into the layer. With 0.4 on all
    linear layers SmolLM2-135M says something else from the first words on, each seed something of its own, in real
    words; with 0.1 seeds are hard to tell apart, with 0.8 it babbles.
    """
    path.write_bytes(
        adapter_builder(
            base_gguf_path, rank=rank, seed=seed, scale=scale, alpha=alpha, layers=layers, tensors=tensors,
            activation=activation, dtype=dtype,
        ).build()
    )  # fmt: skip
    return path


def adapter_builder(
    base_gguf_path: Path,
    *,
    rank: int = 8,
    seed: int = 1,
    scale: float = 0.4,
    alpha: float = 16.0,
    layers: list[int] | None = None,
    tensors: tuple[str, ...] = LINEAR,
    activation: str | None = None,
    dtype: str = "f16",
) -> GgufBuilder:
    """What `make_adapter` writes, still open to changes."""
    base = read_head(base_gguf_path, lambda head, size: parse(head, file_bytes=size))
    random = np.random.default_rng(seed)
    builder = GgufBuilder()
    builder.key("general.architecture", "string", base.metadata["general.architecture"])
    builder.key("general.type", "string", "adapter")
    builder.key("adapter.type", "string", "lora")
    builder.key("adapter.lora.alpha", "f32", alpha)
    if activation is not None:
        builder.key("shoal.adapter.activation", "string", activation)
    for name, tensor in base.tensors.items():
        kind = name.removesuffix(".weight").rpartition(".")[2]
        if kind not in tensors or (layers is not None and int(name.split(".")[1]) not in layers):
            continue
        num_in, num_out = tensor.shape
        a = random.normal(0, num_in**-0.5, (rank, num_in))
        b = random.normal(0, scale * (rank / alpha) * rank**-0.5, (num_out, rank))
        builder.tensor(f"{name}.lora_a", dtype, (num_in, rank), encode(a, dtype))
        builder.tensor(f"{name}.lora_b", dtype, (rank, num_out), encode(b, dtype))
    return builder


def encode(numbers: npt.NDArray[Any], dtype: str) -> bytes:
    """Numbers as a tensor's bytes: f32, f16 or bf16 (the upper half of f32)."""
    if dtype == "bf16":
        return (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"f32": "<f4", "f16": "<f2"}[dtype]).tobytes()
