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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from agent.weights.gguf import GgufFile, Tensor
from agent.weights.gguf_writer import Kind, NewTensor, head, i32_array, key, string

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
VERSION = 1  # of the weights' form, in the file's name
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
        key("general.architecture", Kind.STRING, arch),
        key(f"{arch}.logit_scale", Kind.F32, 1.0),
        key(f"{arch}.adapters.count", Kind.U32, len(activation_tokens)),
        key(f"{arch}.adapters.lora_rank", Kind.U32, rank),
        i32_array(f"{arch}.adapters.token_ids_activate", activation_tokens),
        i32_array(f"{arch}.adapters.token_ids_substitute", [substitute] * len(activation_tokens)),
        key(f"{arch}.adapters.router_gain", Kind.F32, ROUTER_GAIN),
        *_split_keys(0, len(tensors) + len(list(_base_parts(model)))),
    ]
    begin, offsets = head(keys, [NewTensor(t.name, t.type, t.shape[::-1], t.num_bytes) for t in tensors])
    os.ftruncate(fd, offsets[-1] + tensors[-1].num_bytes)  # the slots are holes, all zeros
    os.pwrite(fd, begin, 0)
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
        NewTensor(name, sources[0].type, shape, sum(source.num_bytes for source in sources))
        for name, shape, sources in parts
    ]
    begin, offsets = head(_split_keys(1, num_tensors), rows)
    needed = offsets[-1] + rows[-1].num_bytes
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1:
        raise OSError(f"{needed >> 20} MiB are needed in {folder}, {free >> 20} MiB are free")
    for old in [*folder.glob(f"{sha256}.base-*"), *folder.glob(".base-*")]:
        old.unlink(missing_ok=True)
    temporary = folder / f".base-{os.getpid()}"
    try:
        with temporary.open("wb") as out:
            out.write(begin)
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
    for name, (start, end) in model.spans.items():
        if name in ("general.architecture", "general.alignment") or name.startswith("split."):
            continue
        named = "graniteswitch." + name.removeprefix("llama.") if name.startswith("llama.") else name
        yield string(named) + bytes(data[start:end])


def _split_keys(number: int, num_tensors: int) -> list[bytes]:
    return [
        key("split.no", Kind.U16, number),
        key("split.count", Kind.U16, 2),
        key("split.tensors.count", Kind.I32, num_tensors),
    ]
