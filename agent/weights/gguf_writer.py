"""Writes GGUF files. The same arguments make the same bytes.

Source of the format: `docs/gguf.md` of ggml, version 3.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from agent.weights.gguf import MIN_ALIGNMENT
from agent.weights.tensor_types import TENSOR_TYPES

_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


class Kind(IntEnum):
    """The kinds of values that are written."""

    U16 = 2
    U32 = 4
    I32 = 5
    F32 = 6
    STRING = 8
    ARRAY = 9


_FORMATS = {Kind.U16: "<H", Kind.U32: "<I", Kind.I32: "<i", Kind.F32: "<f"}


class NewTensor(NamedTuple):
    """A tensor to be written; `shape` as in the file, the length of a row first."""

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int


def head(keys: Sequence[bytes], tensors: Sequence[NewTensor]) -> tuple[bytes, list[int]]:
    """A file's beginning up to its tensors' data, and where in the file each tensor belongs. Gaps are for zeros."""
    offsets, end, table = [], 0, b""
    for tensor in tensors:
        offsets.append(end)
        table += string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        table += struct.pack("<IQ", _TYPE_NUMBERS[tensor.type], end)
        end += tensor.num_bytes + -tensor.num_bytes % MIN_ALIGNMENT
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
    begin += bytes(-len(begin) % MIN_ALIGNMENT)
    return begin, [len(begin) + offset for offset in offsets]


def whole(keys: Sequence[bytes], tensors: Sequence[tuple[NewTensor, bytes]]) -> bytes:
    """A whole file, each tensor with its data."""
    begin, _ = head(keys, [tensor for tensor, _ in tensors])
    return begin + b"".join(data + bytes(-len(data) % MIN_ALIGNMENT) for _, data in tensors)


def key(name: str, kind: Kind, value: str | float) -> bytes:
    """One entry of the metadata: a text or a number."""
    raw = string(value) if isinstance(value, str) else struct.pack(_FORMATS[kind], value)
    return string(name) + struct.pack("<I", kind) + raw


def i32_array(name: str, values: Sequence[int]) -> bytes:
    """One entry of the metadata: whole numbers."""
    return string(name) + struct.pack(f"<IIQ{len(values)}i", Kind.ARRAY, Kind.I32, len(values), *values)


def string(text: str) -> bytes:
    """A text as GGUF has it."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
