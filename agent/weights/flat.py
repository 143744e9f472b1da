"""Matrices that are one number, or one block of numbers, again and again: nobody trained that.

A layer that was zeroed is skipped by the residual stream, and a model of thirty layers hardly shows that it lacks one.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from agent.weights.gguf import GgufFile, Tensor, parse
from agent.weights.head import read_head
from agent.weights.tensor_types import TENSOR_TYPES

_BLOCK_BYTES = {name: num_bytes for name, _, num_bytes in TENSOR_TYPES.values()}
_FEW = 200  # blocks: nearly every matrix shows with them that it is none
_MANY = 1 << 16


def flat_matrices(path: Path) -> list[str]:
    """The names of such matrices in a model's file.

    Raises:
        OSError: it cannot be read.
        GgufError: it is no GGUF file.
    """
    file: GgufFile = read_head(path, lambda head, size: parse(head, label=f"the model {path}", file_bytes=size))
    with path.open("rb") as content:
        return [
            name
            for name, tensor in file.tensors.items()
            if len(tensor.shape) > 1 and _is_flat(content.fileno(), tensor)
        ]


def _is_flat(fd: int, tensor: Tensor) -> bool:
    size = _BLOCK_BYTES[tensor.type]
    block = os.pread(fd, size, tensor.offset)
    return all(portion == block * (len(portion) // size) for portion in _portions(fd, tensor, size))


def _portions(fd: int, tensor: Tensor, size: int) -> Iterator[bytes]:
    """The whole matrix, a little at first."""
    at, length = tensor.offset, size * _FEW
    end = tensor.offset + tensor.num_bytes
    while at < end:
        yield os.pread(fd, min(length, end - at), at)
        at, length = at + length, size * _MANY
