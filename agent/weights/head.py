"""The beginning of a GGUF file, up to the end of its tensor table, of which nobody knows beforehand where that is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.weights.gguf import HeadTooShort

T = TypeVar("T")

FIRST_HEAD_BYTES = 4 << 20  # enough for 128,000 tokens
MAX_HEAD_BYTES = 64 << 20


def read_head(path: Path, read: Callable[[bytes, int], T]) -> T:
    """Calls `read` with the beginning of a file and the file's size, with more of it if that was too short.

    The file is not mapped: one that somebody cuts meanwhile would kill this process.

    Raises:
        OSError: the file cannot be read.
        GgufError: from `read`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        num_bytes = FIRST_HEAD_BYTES
        while True:
            try:
                return read(os.pread(file.fileno(), num_bytes, 0), size)
            except HeadTooShort:
                if num_bytes >= min(size, MAX_HEAD_BYTES):
                    raise
                num_bytes *= 4
