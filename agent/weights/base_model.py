"""Facts of a base model, from its file and without llama.cpp."""

import math
from pathlib import Path
from typing import Literal

import msgspec

from agent.weights.architectures import DENSE, ENCODERS, REFUSED, check_heads, check_layers_alike
from agent.weights.dimensions import read_dimensions
from agent.weights.gguf import Data, GgufFile, parse
from agent.weights.head import read_head
from agent.weights.layers import check_llama, check_types, find_slots_obstacle, linear_tensors
from agent.weights.vocabulary import check_vocabulary


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a base model. Numbers that differ between layers are the largest."""

    architecture: str
    kind: Literal["decoder", "encoder"]
    num_layers: int
    embedding_length: int
    ffn_length: int
    num_heads: int
    num_kv_heads: int
    head_k_length: int
    head_v_length: int
    trained_context_tokens: int
    num_vocab: int
    num_bytes: int
    tensor_bytes: int
    kv_bytes_per_token: int
    linear: dict[str, tuple[int, int]]
    slots_obstacle: str | None


def read_base(data: Data, *, label: str = "the model", file_bytes: int | None = None) -> Base:
    """Facts of the model in `data`, or in the file of `file_bytes` that begins with it.

    Raises:
        GgufError: it is not a text model that can be run; the message begins "cannot use {label}: ".
    """
    file = parse(data, label=label, file_bytes=file_bytes)
    architecture = _architecture_of(file)
    sizes = read_dimensions(file, architecture)
    num_vocab = check_vocabulary(file, data)
    check_types(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.wrong("the tensor token_embd.weight is missing")
    if len(embedding.shape) != 2 or embedding.shape[1] != num_vocab:
        raise file.wrong(f"token_embd.weight has the shape {embedding.shape} for {num_vocab} tokens")
    if architecture == "llama":
        check_llama(file, sizes, num_vocab)
    elif architecture in DENSE:
        check_layers_alike(file, sizes.num_layers)
    if sizes.num_heads[0]:
        check_heads(file, architecture, sizes)
    kind: Literal["decoder", "encoder"] = "encoder" if architecture in ENCODERS else "decoder"
    return Base(
        architecture=architecture,
        kind=kind,
        num_layers=sizes.num_layers,
        embedding_length=sizes.embedding_length,
        ffn_length=max(sizes.ffn_lengths),
        num_heads=max(sizes.num_heads),
        num_kv_heads=max(sizes.num_kv_heads),
        head_k_length=sizes.head_k_length,
        head_v_length=sizes.head_v_length,
        trained_context_tokens=sizes.trained_context_tokens,
        num_vocab=num_vocab,
        num_bytes=file.num_bytes,
        tensor_bytes=sum(tensor.num_bytes for tensor in file.tensors.values()),
        kv_bytes_per_token=0 if kind == "encoder" else sizes.kv_bytes_per_token,
        linear={name: (tensor.shape[0], tensor.shape[1]) for name, tensor in linear_tensors(file).items()},
        slots_obstacle=find_slots_obstacle(file, architecture, sizes),
    )


def read_base_file(path: Path) -> Base:
    """`read_base` of a file, without mapping it.

    Raises:
        OSError: it cannot be read.
        GgufError: as `read_base`.
    """
    return read_head(path, lambda head, size: read_base(head, label=f"the model {path}", file_bytes=size))


def _architecture_of(file: GgufFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise file.wrong("general.architecture is missing or no string")
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise file.wrong(f"general.type is {kind!r}, not 'model'")
    if architecture in REFUSED:
        raise file.wrong(f"its architecture is {architecture}: {REFUSED[architecture]}")
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise file.wrong(f"it is one of {file.metadata['split.count']} parts; merge them with llama-gguf-split")
    for key, value in file.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise file.wrong(f"{key} is {value}")
    return architecture
