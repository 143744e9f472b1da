"""The adapters that the daemon has given to this engine: checked, mapped, and loaded into llama.cpp where needed."""

import mmap
import os
import weakref
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from agent.engine.llama import Model
from agent.errors import ModelError
from agent.weights.adapter import check_adapter, check_finite, read_adapter
from agent.weights.base_model import Base
from agent.weights.gguf import Tensor

NUMPY_TYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32}


class Pair(NamedTuple):
    """What an adapter adds to a linear layer: scale · B · A, with A (rank x inputs) and B (outputs x rank)."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]
    scale: np.float32


class Adapter:
    """A LoRA in memory. `pairs` is by the layers' names, such as blk.3.attn_q.

    `number` tells it from all others, also from the same one after it was forgotten and sent again.
    """

    def __init__(self, fd: int, base: Base, number: int) -> None:
        """Maps and checks the file; takes over its descriptor.

        Raises:
            ModelError: it is no LoRA for this base; the message says why.
        """
        self.number = number
        self.fd = fd
        weakref.finalize(self, os.close, fd)  # sequences may need it longer than the daemon does
        self._memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        facts = read_adapter(self._memory)
        check_adapter(facts, base)
        check_finite(self._memory, facts)
        self.rank, self.activation = facts.rank, facts.activation
        self.pairs = {
            name.removesuffix(".weight"): Pair(self._array(a), self._array(b), np.float32(facts.alpha / b.shape[0]))
            for name, (a, b) in facts.pairs.items()
        }

    def _array(self, tensor: Tensor) -> npt.NDArray[Any]:
        if tensor.type == "bf16":  # the upper half of an f32
            upper = np.frombuffer(self._memory, np.uint16, tensor.num_bytes // 2, tensor.offset)
            return (upper.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape[::-1])
        kind = NUMPY_TYPES[tensor.type]
        count = tensor.num_bytes // np.dtype(kind).itemsize
        return np.frombuffer(self._memory, kind, count, tensor.offset).reshape(tensor.shape[::-1])


class Adapters:
    """By digest. The inbox's thread adds and forgets, the engine's thread looks up."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._known: dict[str, Adapter | str] = {}
        self._numbers = 0

    def add(self, sha256: str, fd: int) -> None:
        """Takes an adapter's file; one that cannot be used is kept as the reason why."""
        self._numbers += 1
        try:
            self._known[sha256] = Adapter(fd, self._base, self._numbers)
        except (ModelError, OSError, ValueError) as error:
            self._known[sha256] = str(error)

    def find(self, sha256: str) -> Adapter:
        """The adapter.

        Raises:
            ModelError: it cannot be used, or is not here.
        """
        adapter = self._known.get(sha256, "cannot use the adapter: this engine does not have it")
        if isinstance(adapter, str):
            raise ModelError(adapter)
        return adapter

    def forget(self, sha256: str) -> None:
        """Drops it; sequences that run with it keep what they hold."""
        self._known.pop(sha256, None)


class PlainAdapters:
    """Adapters loaded into llama.cpp's own form, for a context that applies one of them to whole batches.

    Lives on the engine's thread. One is freed only when no context has it set: llama.cpp compares addresses, and a new
    one at the same address would not be noticed.
    """

    MAX_LOADED = 8

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pointers: dict[int, Any] = {}  # by number, the least recently used first

    def pointer(self, adapter: Adapter) -> Any:
        """llama.cpp's handle.

        Raises:
            ModelError: llama.cpp refuses the file.
        """
        pointer = self._pointers.pop(adapter.number, None)
        if not pointer:
            pointer = lib.llama_adapter_lora_init(self._model.pointer, f"/proc/self/fd/{adapter.fd}".encode())
            if not pointer:
                raise ModelError("cannot use the adapter: llama.cpp refuses it")
        self._pointers[adapter.number] = pointer
        return pointer

    def free_unused(self, used: set[int]) -> None:
        """Frees what is too much and not in `used`, the numbers of those that sequences need or that are set."""
        for number in [number for number in self._pointers if number not in used]:
            if len(self._pointers) <= self.MAX_LOADED:
                return
            lib.llama_adapter_lora_free(self._pointers.pop(number))
