"""Where the parts of a GGUF file are. Format: ggml's docs/gguf.md, version 2 and 3.

Reads what a cut needs, names and offsets, and short values. Whether the file is a sound model, its node decides.
"""

import itertools
import struct
from mmap import mmap
from typing import NamedTuple

from contract.difference import BLOCKS, Blocks
from fleet.errors import UsageError

LARGE_VALUE_BYTES = 64 * 1024  # vocabularies and merges are larger, everything that people edit is smaller
_MAX_NAME_BYTES = 256
_MAX_NUMBERS = 1024  # one for each layer; the longer ones are vocabularies

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_READERS = {kind: struct.Struct(f"<{code}") for kind, code in _SCALARS.items()}
_U32_KIND, _STRING, _ARRAY = 4, 8, 9
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


Value = str | bool | int | float | tuple[bool | int | float, ...]


class Span(NamedTuple):
    """A part of the file, up to where the next one starts: padding belongs to what it follows."""

    name: str
    start: int
    blocks: Blocks | None = None


class Layout(NamedTuple):
    """The file from its first byte to its last, in order: what stands before the tensors, then the tensors.

    `values` are those of the metadata that are short, `lengths` the numbers of elements of its arrays.
    """

    head: list[Span]
    tensors: list[Span]
    num_bytes: int
    values: dict[str, Value]
    lengths: dict[str, int]


def layout_of(data: bytes | mmap, label: str) -> Layout:
    """The parts of a file.

    Raises:
        UsageError: it is no GGUF file, or its tables do not fit it.
    """
    try:
        return _Reader(data).layout()
    except (ValueError, struct.error, OverflowError) as error:
        raise UsageError(f"cannot cut {label}: {error}; is it a whole GGUF file?") from None


class _Reader:
    """Goes through the tables once. Whatever the counts say, each of its steps uses up bytes of the file."""

    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        self._at = 0
        self._values: dict[str, Value] = {}
        self._lengths: dict[str, int] = {}

    def layout(self) -> Layout:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin as one")
        self._at = 4
        version = self._number(_U32)
        if version not in (2, 3):
            raise ValueError(f"its GGUF version is {version}; 2 and 3 are known, little-endian")
        num_tensors, num_keys = self._number(_U64), self._number(_U64)
        head, alignment = [Span("metadata", 0)], 32
        for _ in range(num_keys):
            start, key = self._at, self._name()
            kind = self._number(_U32)
            if key == "general.alignment" and kind == _U32_KIND:
                alignment = _U32.unpack_from(self._data, self._at)[0]
            self._read_value(kind, key)
            if self._at - start >= LARGE_VALUE_BYTES:
                head += [Span(key, start), Span(f"metadata after {key}", self._at)]
        head.append(Span("tensor table", self._at))
        offsets = {}
        for _ in range(num_tensors):
            name = self._name()
            if name in offsets:
                raise ValueError(f"the tensor {name} is there twice")
            offsets[name] = self._tensor(name)
        return self._tiled(head, offsets, alignment)

    def _tiled(self, head: list[Span], offsets: dict[str, tuple[int, Blocks | None]], alignment: int) -> Layout:
        num_bytes = len(self._data)
        if not 1 <= alignment <= num_bytes:
            raise ValueError(f"general.alignment is {alignment}")
        begin = self._at + -self._at % alignment
        tensors = [Span(name, begin + offset, blocks) for name, (offset, blocks) in offsets.items()]
        tensors.sort(key=lambda span: span.start)
        for before, after in itertools.pairwise(tensors):
            if before.start == after.start:
                raise ValueError(f"the tensors {before.name} and {after.name} begin at the same byte")
        if tensors and tensors[-1].start >= num_bytes:
            raise ValueError(f"the tensor {tensors[-1].name} begins at byte {tensors[-1].start} of {num_bytes}")
        # Of two parts of the head that begin at the same byte the first is empty.
        starts = [span.start for span in head[1:]] + [num_bytes]
        parts = [span for span, end in zip(head, starts, strict=True) if span.start < end]
        return Layout(parts, tensors, num_bytes, self._values, self._lengths)

    def _tensor(self, name: str) -> tuple[int, Blocks | None]:
        """Its offset, and how numbers lie in it."""
        num_dimensions = self._number(_U32)
        if num_dimensions > 4:
            raise ValueError(f"the tensor {name} has {num_dimensions} dimensions")
        self._skip(num_dimensions * 8)  # the shape
        blocks = BLOCKS.get(self._number(_U32))
        return self._number(_U64), blocks

    def _read_value(self, kind: int, key: str) -> None:
        if kind in _READERS:
            self._values[key] = self._scalars(kind, 1)[0]
        elif kind == _STRING:
            start = self._skip(self._number(_U64))
            if self._at - start < LARGE_VALUE_BYTES:
                self._values[key] = str(self._data[start : self._at], "utf-8", "replace")
        elif kind == _ARRAY:
            kind, length = self._number(_U32), self._number(_U64)
            self._lengths[key] = length
            if kind in _READERS and length <= _MAX_NUMBERS:
                self._values[key] = self._scalars(kind, length)
            elif kind in _READERS:
                self._skip(length * _READERS[kind].size)
            elif kind == _STRING:
                for _ in range(length):
                    self._skip(self._number(_U64))
            else:
                raise ValueError(f"{key} is an array of the type {kind}")
        else:
            raise ValueError(f"{key} has the type {kind}")

    def _scalars(self, kind: int, length: int) -> tuple[bool | int | float, ...]:
        reader = _READERS[kind]
        start = self._skip(length * reader.size)
        return tuple(reader.unpack_from(self._data, start + at * reader.size)[0] for at in range(length))

    def _name(self) -> str:
        length = self._number(_U64)
        if not 1 <= length <= _MAX_NAME_BYTES:
            raise ValueError(f"at byte {self._at} is a name of {length} bytes")
        start = self._skip(length)
        name = str(self._data[start : self._at], "utf-8")
        if not name.isprintable():
            raise ValueError(f"at byte {start} is the name {name!r}")
        return name

    def _number(self, form: struct.Struct) -> int:
        number: int = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return number

    def _skip(self, num_bytes: int) -> int:
        """Goes on by so many bytes; returns where they begin."""
        start = self._at
        self._at += num_bytes
        if self._at > len(self._data):
            raise ValueError(f"its tables reach beyond its end at byte {len(self._data)}")
        return start
