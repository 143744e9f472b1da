"""Writes GGUF files, also wrong ones: any field can be given a value that does not fit the others."""

import struct
from typing import Any

from agent.weights.tensor_types import TENSOR_TYPES

TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_VALUES = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
           "f32": (6, "f"), "bool": (7, "B"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}  # fmt: skip


def text(value: str | bytes) -> bytes:
    """A string as GGUF has it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Any) -> bytes:
    """A metadata value behind its type: "u32", "string", "[f32]", "[string]"."""
    if kind.startswith("["):
        kind = kind[1:-1]
        if kind == "string":
            return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(text(item) for item in content)
        number, code = _VALUES[kind]
        return struct.pack(f"<IIQ{len(content)}{code}", 9, number, len(content), *content)
    if kind == "string":
        return struct.pack("<I", 8) + text(content)
    number, code = _VALUES[kind]
    return struct.pack(f"<I{code}", number, content)


class GgufBuilder:
    """A file in the making. `metadata` and `tensors` may be changed until `build`; their order is that of the file."""

    def __init__(self) -> None:
        self.version = 3
        self.alignment = 32
        self.num_keys: int | None = None
        self.num_tensors: int | None = None
        self.metadata: dict[str | bytes, bytes] = {}
        self.raw_keys = b""  # behind the metadata, e.g. a key for the second time
        self.tensors: dict[str | bytes, tuple[int, tuple[int, ...], bytes]] = {}
        self.offsets: dict[str | bytes, int] = {}
        self.trailing = b""

    def key(self, name: str | bytes, kind: str, content: Any) -> "GgufBuilder":
        """Adds a metadata key, or changes it."""
        self.metadata[name] = value(kind, content)
        return self

    def tensor(
        self, name: str | bytes, kind: str | int, shape: tuple[int, ...], data: bytes | None = None
    ) -> "GgufBuilder":
        """Adds a tensor, or changes it; of zeros when no data is given."""
        number = TYPE_NUMBERS[kind] if isinstance(kind, str) else kind
        if data is None:
            _, elements, size = TENSOR_TYPES[number]
            data = bytes(_product(shape) // elements * size)
        self.tensors[name] = (number, shape, data)
        return self

    def build(self) -> bytes:
        """The file."""
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.metadata) if self.num_keys is None else self.num_keys
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version, num_tensors, num_keys))
        for name, raw in self.metadata.items():
            out += text(name) + raw
        out += self.raw_keys
        data = bytearray()
        for name, (number, shape, content) in self.tensors.items():
            offset = self.offsets.get(name, len(data))
            out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)
            data += content + bytes(-len(content) % self.alignment)
        return bytes(out + bytes(-len(out) % self.alignment) + data + self.trailing)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for dimension in shape:
        product *= dimension
    return product
