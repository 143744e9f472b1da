"""The stack's memory: adapters are written into slots of a model that is running.

The memory file is mapped twice, by llama.cpp, which reads, and here. A slot is written while no sequence uses it; what
other slots hold is not touched.
"""

import math
import mmap
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.engine.adapters import NUMPY_TYPES, Adapter
from agent.engine.half import as_f32
from agent.engine.shards import StackTensor, stack_tensors, write_stack
from agent.weights.gguf import GgufFile


class Place(NamedTuple):
    """Both halves of a linear layer's adapters: A (slots + 1, rank, inputs) and B (slots + 1, outputs, rank)."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]


class Stack:
    """A memory file with the slots' weights."""

    def __init__(
        self, model: GgufFile, data: memoryview, *, rank: int, activation_tokens: list[int], substitute: int
    ) -> None:
        self.rank = rank
        self._fd = os.memfd_create("adapter-slots", os.MFD_CLOEXEC)
        offsets = write_stack(
            self._fd, model, data, rank=rank, activation_tokens=activation_tokens, substitute=substitute
        )
        # All pages now: at the first write into a slot they would cost it 6 ms, between two steps.
        self._memory = mmap.mmap(self._fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._places: dict[str, Place] = {}
        tensors = stack_tensors(model, len(activation_tokens), rank)
        for a, b in zip(tensors[::2], tensors[1::2], strict=True):
            self._places[a.name.removesuffix(".lora_a")] = Place(self._view(a, offsets), self._view(b, offsets))
        self._filled: dict[int, set[str]] = {}

    @property
    def path(self) -> str:
        """Where llama.cpp finds it."""
        return f"/proc/self/fd/{self._fd}"

    def obstacle(self, adapter: Adapter) -> str | None:
        """Why an adapter cannot be in a slot, or None."""
        if adapter.rank > self.rank:
            return f"its rank is {adapter.rank}; slots take {self.rank}"
        strange = next((name for name in adapter.pairs if name not in self._places), None)
        return f"slots have no place for {strange}" if strange else None

    def write(self, adapter: Adapter, slot: int) -> None:
        """Puts an adapter into a slot, in place of what was there."""
        left = self._filled.get(slot, set()) - adapter.pairs.keys()
        for name in left:
            place = self._places[name]
            place.a[slot] = 0
            place.b[slot] = 0
        for name, (a, b, scale) in adapter.pairs.items():
            place, rank = self._places[name], len(a)
            target_a, target_b = place.a[slot], place.b[slot]
            target_a[:rank] = a
            np.multiply(as_f32(b), scale, out=target_b[:, :rank])
            if rank < self.rank:
                target_a[rank:] = 0
                target_b[:, rank:] = 0
        self._filled[slot] = set(adapter.pairs)

    def _view(self, tensor: StackTensor, offsets: dict[str, int]) -> npt.NDArray[Any]:
        count = math.prod(tensor.shape)
        return np.frombuffer(self._memory, NUMPY_TYPES[tensor.type], count, offsets[tensor.name]).reshape(tensor.shape)
