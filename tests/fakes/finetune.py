"""A fine-tuned model as people publish it: an adapter merged into the base, in the base's own number formats."""

from typing import Any

import gguf
import numpy as np
from gguf import quants

from agent.weights.adapter import read_adapter
from agent.weights.gguf import Tensor, parse


def merge(base: bytes, adapter: bytes, *, layers: range | None = None) -> bytes:
    """The base with an adapter merged into all layers, or into some; everything else is as it was."""
    facts, tensors = read_adapter(adapter), parse(base).tensors
    merged = bytearray(base)
    for name, (a, b) in facts.pairs.items():
        if layers is not None and int(name.split(".")[1]) not in layers:
            continue
        tensor = tensors[name]
        kind = gguf.GGMLQuantizationType[tensor.type.upper()]
        packed = np.frombuffer(base, np.uint8, tensor.num_bytes, tensor.offset).reshape(tensor.shape[1], -1)
        change = _matrix(adapter, b) @ _matrix(adapter, a) * (facts.alpha / b.shape[0])
        changed = quants.quantize(quants.dequantize(packed, kind) + change, kind).tobytes()
        merged[tensor.offset : tensor.offset + tensor.num_bytes] = changed
    return bytes(merged)


def _matrix(adapter: bytes, tensor: Tensor) -> Any:
    numbers = np.frombuffer(adapter, np.float16, tensor.num_bytes // 2, tensor.offset)
    return numbers.reshape(tensor.shape[1], tensor.shape[0]).astype(np.float32)
