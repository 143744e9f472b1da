"""A GGUF file's header, metadata and tensor table. Format: ggml's docs/gguf.md; rules: ggml/src/gguf.cpp.

What holds for every `GgufFile` that `parse` returns:

- Version 2 or 3, little-endian. No count or length was believed before it was compared with a cap and the file.
- Keys and tensor names are unique, not empty, without control characters, and short enough for llama.cpp.
- Strings are UTF-8 without NUL, which llama.cpp would cut them at. Arrays are flat.
- Every tensor has a known type, 1 to 4 positive dimensions, rows of whole blocks, and lies inside the file. Tensors
  follow each other in the order of the table, each at the next multiple of the alignment: none overlap, none share.
- Behind the last tensor there is at most padding.
"""

import struct
from mmap import mmap

import msgspec

from agent.errors import ModelError
from agent.weights.tensor_types import TENSOR_TYPES

Data = bytes | bytearray | memoryview | mmap
Number = int | float | bool

MAX_KEYS = 1024  # models have 20 to 60
MAX_TENSORS = 16_384  # an adapter on all linear layers of a 126-layer model has 1764
MAX_NAME_BYTES = 63  # GGML_MAX_NAME, less its NUL
MAX_KEY_BYTES = 256
MAX_STRING_BYTES = 1 << 20  # chat templates reach tens of kilobytes
MAX_ARRAY_LENGTH = 1 << 22  # the largest vocabularies have 262,144 tokens and twice as many merges
MAX_INLINE_LENGTH = 1024  # numbers of shorter arrays (one per layer) are values, longer ones stay in the file
# llama.cpp aborts where a mapped tensor does not begin at a multiple of 32 bytes (TENSOR_ALIGNMENT).
MIN_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, tuple[str, str]] = {  # number in the file: name, code of struct
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    _BOOL: ("bool", "B"),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_COUNTS = struct.Struct("<QQ")
_ARRAY_HEAD = struct.Struct("<IQ")
_READERS = {number: struct.Struct("<" + code) for number, (_, code) in _SCALARS.items()}
# Dimensions, type and offset of a tensor, by its number of dimensions.
_TENSOR_ROWS = [struct.Struct(f"<{'Q' * dims}IQ") for dims in range(5)]


class GgufError(ModelError):
    """A GGUF file is not what it should be: "cannot use …: <what is wrong, with the numbers>"."""


class HeadTooShort(GgufError):
    """The bytes at hand end before the tensor table does; the file has more."""


class ArrayInfo(msgspec.Struct, frozen=True, gc=False):
    """An array that stays in the file: `length` elements of `type`, at `offset`."""

    type: str
    length: int
    offset: int


Value = Number | str | tuple[Number, ...] | ArrayInfo


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor. `shape` as in the file: the first is the length of a row. `offset` counts from the file's beginning."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class GgufFile(msgspec.Struct, frozen=True):
    """What a GGUF file says.

    `types` has the type of each metadata value ("u32", "string", "[f32]" for an array), `spans` where its bytes are in
    the file, from the number of its type to its end.
    """

    label: str
    version: int
    alignment: int
    num_bytes: int
    metadata: dict[str, Value]
    types: dict[str, str]
    spans: dict[str, tuple[int, int]]
    tensors: dict[str, Tensor]

    def wrong(self, why: str) -> GgufError:
        """The error that says `why` this file cannot be used."""
        return GgufError(f"cannot use {self.label}: {why}")


def parse(data: Data, *, label: str = "the GGUF file", file_bytes: int | None = None) -> GgufFile:
    """Reads a file, or its beginning when `file_bytes` says how long the file is.

    Raises:
        GgufError: something in it is wrong, named with the numbers; the message begins "cannot use {label}: ".
    """
    with memoryview(data) as view:
        return _Parser(view, len(view) if file_bytes is None else file_bytes, label).parse()


def strings_of(data: Data, info: ArrayInfo) -> list[bytes]:
    """The strings of an array that `parse` has found in the same bytes."""
    found = []
    at, unpack = info.offset, _U64.unpack_from
    with memoryview(data) as view:
        for _ in range(info.length):
            start = at + 8
            at = start + unpack(view, at)[0]
            found.append(bytes(view[start:at]))
    return found


class _Parser:
    """Goes through the bytes once. `at` is where it stands."""

    def __init__(self, view: memoryview, file_bytes: int, label: str) -> None:
        self._view = view
        self._file_bytes = file_bytes
        self._label = label
        self._at = 0

    def parse(self) -> GgufFile:
        """Everything up to the tensors' data."""
        if bytes(self._view[:4]) != b"GGUF":
            raise self._wrong("it is not a GGUF file")
        self._at = 4
        version = self._number(_U32, "header")
        if version not in (2, 3):
            raise self._wrong(f"its GGUF version is {version}; 2 and 3 are known, little-endian")
        num_tensors, num_keys = self._numbers(_COUNTS, "header")
        if num_keys > MAX_KEYS or num_tensors > MAX_TENSORS:
            raise self._wrong(f"{num_keys} keys and {num_tensors} tensors; {MAX_KEYS} and {MAX_TENSORS} are allowed")
        types, spans, metadata = self._metadata(num_keys)
        alignment = metadata.get("general.alignment", 32)
        if types.get("general.alignment", "u32") != "u32" or not isinstance(alignment, int):
            raise self._wrong(f"general.alignment is {types['general.alignment']}, not u32")
        if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment is {alignment}; powers of two from 32 to {MAX_ALIGNMENT} are allowed")
        tensors = self._tensors(num_tensors, alignment)
        return GgufFile(self._label, version, alignment, self._file_bytes, metadata, types, spans, tensors)

    def _metadata(self, count: int) -> tuple[dict[str, str], dict[str, tuple[int, int]], dict[str, Value]]:
        types: dict[str, str] = {}
        spans: dict[str, tuple[int, int]] = {}
        metadata: dict[str, Value] = {}
        for index in range(count):
            key = self._text(MAX_KEY_BYTES, f"key {index}")
            if key in metadata:
                raise self._wrong(f"the key {key} is there twice")
            if not key.isprintable() or not key:
                raise self._wrong(f"key {index} is {key!r}")
            start = self._at
            kind = self._number(_U32, key)
            if kind in _SCALARS:
                types[key], metadata[key] = _SCALARS[kind][0], self._scalar(kind, key)
            elif kind == _STRING:
                types[key], metadata[key] = "string", self._text(MAX_STRING_BYTES, key)
            elif kind == _ARRAY:
                types[key], metadata[key] = self._array(key)
            else:
                raise self._wrong(f"{key} has the unknown type {kind}")
            spans[key] = (start, self._at)
        return types, spans, metadata

    def _scalar(self, kind: int, key: str) -> Number:
        value: Number = self._number(_READERS[kind], key)
        if kind != _BOOL:
            return value
        if value not in (0, 1):
            raise self._wrong(f"{key} is a bool of value {value}")
        return bool(value)

    def _array(self, key: str) -> tuple[str, Value]:
        kind, length = self._numbers(_ARRAY_HEAD, key)
        if length > MAX_ARRAY_LENGTH:
            raise self._wrong(f"{key} has {length} elements; {MAX_ARRAY_LENGTH} are allowed")
        start = self._at
        if kind == _STRING:
            self._skip_strings(length, key)
            return "[string]", ArrayInfo("string", length, start)
        if kind not in _SCALARS:
            raise self._wrong(f"{key} is an array of the unknown type {kind}")
        name, code = _SCALARS[kind]
        self._skip(length * _READERS[kind].size, key)
        if length > MAX_INLINE_LENGTH:
            return f"[{name}]", ArrayInfo(name, length, start)
        return f"[{name}]", struct.unpack_from(f"<{length}{code}", self._view, start)

    def _tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        rows = {}
        for index in range(count):
            name = self._text(MAX_NAME_BYTES, f"the name of tensor {index}")
            if name in rows:
                raise self._wrong(f"the tensor {name} is there twice")
            if not name.isprintable() or not name:
                raise self._wrong(f"the name of tensor {index} is {name!r}")
            dims = self._number(_U32, name)
            if not 1 <= dims <= 4:
                raise self._wrong(f"{name} has {dims} dimensions; 1 to 4 are allowed")
            rows[name] = self._numbers(_TENSOR_ROWS[dims], name)
        # Offsets count from here. The table's end is known only now.
        begin = self._at + -self._at % alignment
        tensors, end = {}, begin
        for name, (*shape, kind, offset) in rows.items():
            num_bytes = self._tensor_bytes(name, shape, kind)
            start = end + -end % alignment
            if offset != start - begin:
                raise self._wrong(f"{name} is at offset {offset}, but {start - begin} is where it must be")
            end = start + num_bytes
            if end > self._file_bytes:
                raise self._wrong(f"{name} ends at byte {end}, but the file has {self._file_bytes}")
            tensors[name] = Tensor(name, TENSOR_TYPES[kind][0], tuple(shape), start, num_bytes)
        if tensors and self._file_bytes - end >= alignment:
            raise self._wrong(f"{self._file_bytes - end} bytes behind its last tensor belong to none")
        return tensors

    def _tensor_bytes(self, name: str, shape: list[int], kind: int) -> int:
        known = TENSOR_TYPES.get(kind)
        if known is None:
            raise self._wrong(f"{name} has the unknown type {kind}")
        type_name, block_elements, block_bytes = known
        if 0 in shape or shape[0] % block_elements:
            raise self._wrong(f"{name} of type {type_name} cannot have the shape {shape}")
        num_bytes = shape[0] // block_elements * block_bytes
        for dimension in shape[1:]:
            num_bytes *= dimension  # at most 2**256: Python's numbers do not overflow
        return num_bytes

    def _number(self, form: struct.Struct, what: str) -> int:
        number: int = self._numbers(form, what)[0]
        return number

    def _numbers(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        at = self._at
        self._at = at + form.size
        if self._at > len(self._view):
            raise self._ends(what)
        return form.unpack_from(self._view, at)

    def _text(self, max_bytes: int, what: str) -> str:
        length = self._number(_U64, what)
        start = self._at
        self._at = start + length
        if length > max_bytes:
            raise self._wrong(f"{what} is a string of {length} bytes; {max_bytes} are allowed")
        if self._at > len(self._view):
            raise self._ends(what)
        try:
            text = str(self._view[start : self._at], "utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not UTF-8 at its byte {error.start}") from None
        if "\0" in text:
            raise self._wrong(f"{what} has a NUL inside")
        return text

    def _skip(self, num_bytes: int, what: str) -> None:
        self._at += num_bytes
        if self._at > len(self._view):
            raise self._ends(what)

    def _skip_strings(self, count: int, key: str) -> None:
        """A vocabulary has 100,000 strings: the loop does nothing that can be done after it."""
        at, view, unpack = self._at, self._view, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + unpack(view, at)[0]
        except (struct.error, OverflowError):
            at = len(view) + 1
        self._at = at
        if at > len(view):
            raise self._ends(key)

    def _ends(self, what: str) -> GgufError:
        if len(self._view) >= self._file_bytes:
            return self._wrong(f"it ends at byte {self._file_bytes}, inside {what}")
        return HeadTooShort(f"cannot use {self._label}: {what} reaches beyond its first {len(self._view)} bytes")

    def _wrong(self, why: str) -> GgufError:
        return GgufError(f"cannot use {self._label}: {why}")
