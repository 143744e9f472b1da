"""Writes GGUF files. The same arguments make the same bytes."""

import struct
from collections.abc import Sequence

import msgspec

from agent.weights.gguf import MIN_ALIGNMENT
from agent.weights.tensor_types import TENSOR_TYPES

_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_F32, _STRING = 6, 8


class NewTensor(msgspec.Struct, frozen=True):
    """A tensor to be written; `shape` as in the file, the length of a row first."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: bytes


def write(metadata: dict[str, str | float], tensors: Sequence[NewTensor]) -> bytes:
    """A file of these keys, strings and f32, and tensors, in this order."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _string(key)
        head += (
            struct.pack("<I", _STRING) + _string(value) if isinstance(value, str) else struct.pack("<If", _F32, value)
        )
    data = bytearray()
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", _TYPE_NUMBERS[tensor.type], len(data))
        data += tensor.data + bytes(-len(tensor.data) % MIN_ALIGNMENT)
    return head + bytes(-len(head) % MIN_ALIGNMENT) + bytes(data)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
