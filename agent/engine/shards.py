"""A model in the form that runs different adapters in one batch, as two GGUF shards.

llama.cpp's architecture `graniteswitch` is `llama` with query, key and value weights in one tensor, some multipliers,
and LoRA tensors stacked over slots, of which each token selects one (`src/models/granite-switch.cpp`). Which one is
computed in the graph: a token that stands for slot n makes all later tokens of its sequence use slot n, and is embedded
as the token it replaces. Slot 0 is the base.

The first shard has the metadata and the stack. It is a memory file that llama.cpp maps shared: what is written there is
live at the next decode. The second shard has the base weights. It is on disk, written once per model, and knows nothing
of slots, so that their number can change without writing it again.
"""

import math
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from agent.weights.gguf import GgufFile, Tensor
from agent.weights.tensor_types import TENSOR_TYPES

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
VERSION = 1  # of the weights' form, in the file's name
_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_ALIGNMENT = 32
_U16, _U32, _I32, _F32, _STRING, _ARRAY = 2, 4, 5, 6, 8, 9
# The first token's key is +gain, all others' -gain: a softmax over 2,048 tokens then gives it all but e^-22.
ROUTER_GAIN = 15.0


class StackTensor(NamedTuple):
    """One half of a stacked LoRA: all slots' rows behind each other. `shape` is (slots + 1, rows, row length)."""

    name: str
    shape: tuple[int, int, int]
    type: str

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * (4 if self.type == "f32" else 2)


def stack_tensors(model: GgufFile, num_slots: int, rank: int) -> list[StackTensor]:
    """What is in the stack: for each linear layer A (rank x inputs) and B (outputs x rank)."""
    found = []
    for layer in range(_num_layers(model)):
        for linear in LINEAR:
            inputs, outputs = model.tensors[f"blk.{layer}.{linear}.weight"].shape
            found.append(StackTensor(f"blk.{layer}.{linear}.lora_a", (num_slots + 1, rank, inputs), "f16"))
            # Rows as short as a rank are multiplied number by number, faster when none is to be
            # converted: 4 % of a step with 16 streams, 8 % of a prompt.
            found.append(StackTensor(f"blk.{layer}.{linear}.lora_b", (num_slots + 1, outputs, rank), "f32"))
    return found


def write_stack(
    fd: int, model: GgufFile, data: memoryview, *, rank: int, activation_tokens: list[int], substitute: int
) -> dict[str, int]:
    """Writes the first shard, all slots empty, into an empty memory file; returns each stack tensor's offset."""
    tensors = stack_tensors(model, len(activation_tokens), rank)
    keys = list(_model_keys(model, data))
    arch = "graniteswitch"
    keys += [
        _key("general.architecture", _STRING, _string(arch)),
        _key(f"{arch}.logit_scale", _F32, struct.pack("<f", 1.0)),
        _key(f"{arch}.adapters.count", _U32, struct.pack("<I", len(activation_tokens))),
        _key(f"{arch}.adapters.lora_rank", _U32, struct.pack("<I", rank)),
        _key(f"{arch}.adapters.token_ids_activate", _ARRAY, _i32s(activation_tokens)),
        _key(f"{arch}.adapters.token_ids_substitute", _ARRAY, _i32s([substitute] * len(activation_tokens))),
        _key(f"{arch}.adapters.router_gain", _F32, struct.pack("<f", ROUTER_GAIN)),
        *_split_keys(0, len(tensors) + len(list(_base_parts(model)))),
    ]
    rows = [_Row(t.name, t.shape[::-1], _TYPE_NUMBERS[t.type], t.num_bytes) for t in tensors]
    head, offsets = _head(keys, rows)
    end = max(offset + row.num_bytes for offset, row in zip(offsets, rows, strict=True))
    os.ftruncate(fd, end)  # the slots are holes, all zeros
    os.pwrite(fd, head, 0)
    return {tensor.name: offset for tensor, offset in zip(tensors, offsets, strict=True)}


def base_shard(folder: Path, sha256: str, model: GgufFile, data: memoryview) -> Path:
    """The second shard's file, written when it is not there yet. Older forms of the same model are removed.

    Raises:
        OSError: it cannot be written, or there is no space for it.
    """
    target = folder / f"{sha256}.base-v{VERSION}.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_base_parts(model))
    num_tensors = len(parts) + len(stack_tensors(model, 1, 1))
    rows = [
        _Row(name, shape, _TYPE_NUMBERS[sources[0].type], sum(source.num_bytes for source in sources))
        for name, shape, sources in parts
    ]
    head, offsets = _head(_split_keys(1, num_tensors), rows)
    needed = offsets[-1] + rows[-1].num_bytes
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1:
        raise OSError(f"{needed >> 20} MiB are needed in {folder}, {free >> 20} MiB are free")
    for old in [*folder.glob(f"{sha256}.base-*"), *folder.glob(".base-*")]:
        old.unlink(missing_ok=True)
    temporary = folder / f".base-{os.getpid()}"
    try:
        with temporary.open("wb") as out:
            out.write(head)
            for offset, (_, _, sources) in zip(offsets, parts, strict=True):
                out.seek(offset)
                for source in sources:
                    out.write(data[source.offset : source.offset + source.num_bytes])
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


class _Row(NamedTuple):
    """A row of a tensor table; `shape` as in the file, the length of a row first."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    num_bytes: int


def _num_layers(model: GgufFile) -> int:
    return int(cast(int, model.metadata["llama.block_count"]))  # the validator has looked


def _base_parts(model: GgufFile) -> Iterator[tuple[str, tuple[int, ...], list[Tensor]]]:
    """Name, shape and sources of the second shard's tensors."""
    tensors = model.tensors
    for name in ("token_embd.weight", "output_norm.weight", "output.weight"):
        if name in tensors:
            yield name, tensors[name].shape, [tensors[name]]
    for layer in range(_num_layers(model)):
        begin = f"blk.{layer}."
        parts = [tensors[f"{begin}attn_{part}.weight"] for part in "qkv"]
        yield f"{begin}attn_qkv.weight", (parts[0].shape[0], sum(part.shape[1] for part in parts)), parts
        for part in ("attn_norm", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up"):
            tensor = tensors[f"{begin}{part}.weight"]
            yield tensor.name, tensor.shape, [tensor]


def _model_keys(model: GgufFile, data: memoryview) -> Iterator[bytes]:
    """The model's own metadata, with the other architecture's prefix; values are copied as they are."""
    for key, (start, end) in model.spans.items():
        if key in ("general.architecture", "general.alignment") or key.startswith("split."):
            continue
        name = "graniteswitch." + key.removeprefix("llama.") if key.startswith("llama.") else key
        yield _string(name) + bytes(data[start:end])


def _split_keys(number: int, num_tensors: int) -> list[bytes]:
    return [
        _key("split.no", _U16, struct.pack("<H", number)),
        _key("split.count", _U16, struct.pack("<H", 2)),
        _key("split.tensors.count", _I32, struct.pack("<i", num_tensors)),
    ]


def _head(keys: Sequence[bytes], rows: Sequence[_Row]) -> tuple[bytes, list[int]]:
    """A file's beginning up to its tensors' data, and where each tensor is in the file."""
    offsets, end = [], 0
    table = b""
    for row in rows:
        offsets.append(end)
        table += _string(row.name) + struct.pack("<I", len(row.shape)) + struct.pack(f"<{len(row.shape)}Q", *row.shape)
        table += struct.pack("<IQ", row.type_number, end)
        end += row.num_bytes + -row.num_bytes % _ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(keys)) + b"".join(keys) + table
    head += bytes(-len(head) % _ALIGNMENT)
    return head, [len(head) + offset for offset in offsets]


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _i32s(values: list[int]) -> bytes:
    return struct.pack(f"<IQ{len(values)}i", _I32, len(values), *values)
