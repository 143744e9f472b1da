"""The tensors of a safetensors file.

The format: https://github.com/huggingface/safetensors#format. What holds for what `read_safetensors` returns: no length
was believed before it was compared with the file; every tensor has a known type and lies inside the file; together they
fill it, and none overlap.
"""

import math

import msgspec

from agent.errors import ModelError
from agent.weights.gguf import MAX_TENSORS, Data

MAX_HEADER_BYTES = 16 << 20  # 16,384 tensors of 150 bytes take 2.5 MB
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


class SafeTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor. `shape` as PyTorch has it: the length of a row last. Offsets count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors(data: Data, label: str) -> dict[str, tuple[SafeTensor, memoryview]]:
    """Tensors with their data, by name.

    Raises:
        ModelError: something in it is wrong; the message begins "cannot use {label}: ".
    """
    view = memoryview(data)
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(MAX_HEADER_BYTES, len(view) - 8):
        raise _wrong(label, f"it says that its header has {length} bytes, of {max(0, len(view) - 8)} in the file")
    try:
        raw = msgspec.json.decode(view[8 : 8 + length], type=dict[str, msgspec.Raw])
        tensors = {
            name: msgspec.json.decode(entry, type=SafeTensor) for name, entry in raw.items() if name != "__metadata__"
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(label, f"its header is no list of tensors: {error}") from None
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise _wrong(label, f"it has {len(tensors)} tensors; 1 to {MAX_TENSORS} are allowed")
    body, end = view[8 + length :], 0
    found = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in SIZES:
            raise _wrong(label, f"{name!r} is of type {tensor.dtype!r}; {', '.join(SIZES)} can be used")
        if any(dimension < 1 for dimension in tensor.shape):
            raise _wrong(label, f"{name!r} has the shape {tensor.shape}")
        begin, until = tensor.data_offsets
        if begin != end or until - begin != math.prod(tensor.shape) * SIZES[tensor.dtype] or until > len(body):
            raise _wrong(
                label, f"{name!r} of shape {tensor.shape} is at bytes {begin} to {until}, but must begin at {end}"
            )
        found[name] = (tensor, body[begin:until])
        end = until
    if end != len(body):
        raise _wrong(label, f"{len(body) - end} bytes at its end belong to no tensor")
    return found


def _wrong(label: str, why: str) -> ModelError:
    return ModelError(f"cannot use {label}: {why}")
