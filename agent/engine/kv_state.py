"""Saved key-value memory, moved between streams, contexts, and a model's forms with and without adapter slots.

Both forms compute the same keys and values. The one with slots has one more layer, the router's, which remembers from
which token on which slot is used. A state is kept without that layer; it is added for the place a sequence goes to. So
what was computed in either form goes on in the other, and in any slot.

llama.cpp's format of one sequence (`llama_kv_cache::state_write`), all little-endian:

    magic u32, sequence i32, streams u32, and per stream: cells u32 and, when there are any,
      per cell: position i32, sequences u32 (1), sequence i32
      v_trans u32, layers u32
      per layer: type of K i32, bytes of a row u64, rows
      per layer: type of V i32, bytes of a row u64, rows        (only when v_trans is 0)

It names all streams of a context, though only one can have cells. Kept is that one alone, with room behind it for the
counts, all zero, of as many others as a context may have.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

MAX_STREAMS = 32
ROOM_BYTES = 4 * MAX_STREAMS
_F16 = 1
_HEAD_BYTES = 12
_STREAMS_AT = 8
_CELL_BYTES = 12
_LAYER_HEAD = struct.Struct("<iQ")


class StateError(Exception):
    """A saved state cannot be put back."""


class SavedState(NamedTuple):
    """A sequence's key-value memory, kept for later outside of any context, without a router's layer."""

    data: Bytes
    checksum: int

    @property
    def whole(self) -> Bytes | None:
        """What was saved; None when it is damaged: llama.cpp takes a fifth of damaged states without a word."""
        return self.data if _checksum(self.data) == self.checksum else None


class Router(NamedTuple):
    """The router's layer for one sequence: from position `activation` on slot `slot` is used (0: none ever)."""

    head_size: int
    gain: float
    slot: int
    activation: int


class _Layout(NamedTuple):
    """Where things are in a state: bytes from the beginning."""

    num_cells: int
    num_layers: int
    layers_at: int
    last_key: int  # the last layer's keys
    values: int  # the end of the keys
    last_value: int
    end: int  # of the values


def saved(state: Bytes) -> SavedState:
    """A state with its checksum."""
    return SavedState(state, _checksum(state))


def _checksum(state: Bytes) -> int:
    # Without the head, where `of_streams` writes a number that differs between contexts.
    return zlib.crc32(state.data[_HEAD_BYTES:])


def of_one_stream(state: Bytes) -> Bytes:
    """A state as llama.cpp writes it, with `ROOM_BYTES` of zeros behind it, in the form that is kept. In place.

    Raises:
        StateError: it holds nothing.
    """
    (num_streams,) = struct.unpack_from("<I", state.data, _STREAMS_AT)
    counts = np.frombuffer(state, np.uint32, num_streams, _HEAD_BYTES)
    others_before = next((stream for stream in range(num_streams) if counts[stream]), None)
    if others_before is None:
        raise StateError("a state without cells")
    head = bytes(state[:_STREAMS_AT]) + struct.pack("<I", 1)
    kept = state[4 * others_before : len(state) - 4 * (num_streams - 1 - others_before)]
    kept[:_HEAD_BYTES] = np.frombuffer(head, np.uint8)
    return kept


def of_streams(state: Bytes, num_streams: int) -> Bytes:
    """A kept state as a context of so many streams reads it. In place; it stays of use for others."""
    state[_STREAMS_AT:_HEAD_BYTES] = np.frombuffer(struct.pack("<I", num_streams), np.uint8)
    return state[: len(state) - ROOM_BYTES + 4 * (num_streams - 1)]


def with_router(state: Bytes, router: Router) -> Bytes:
    """A kept state for a model with slots, from one without."""
    at = _layout(state)
    positions = np.frombuffer(state, np.int32, at.num_cells * 3, _HEAD_BYTES + 4)[::3]
    acts = (positions == router.activation) if router.slot else np.zeros(at.num_cells, bool)
    keys = np.zeros((at.num_cells, router.head_size), np.float16)
    values = np.zeros((at.num_cells, router.head_size), np.float16)
    keys[:, 0] = np.where(acts, router.gain, -router.gain)
    values[:, 0] = np.where(acts, router.slot, 0)
    head = np.frombuffer(_LAYER_HEAD.pack(_F16, router.head_size * 2), np.uint8)
    parts = (
        state[: at.values], head, keys.view(np.uint8).reshape(-1), state[at.values : at.end], head,
        values.view(np.uint8).reshape(-1), state[at.end :],
    )  # fmt: skip
    return _with_layers(np.concatenate(parts), at.layers_at, at.num_layers + 1)


def without_router(state: Bytes) -> Bytes:
    """A kept state as a model without slots has it."""
    at = _layout(state)
    parts = (state[: at.last_key], state[at.values : at.last_value], state[at.end :])
    return _with_layers(np.concatenate(parts), at.layers_at, at.num_layers - 1)


def _with_layers(state: Bytes, at: int, num_layers: int) -> Bytes:
    state[at : at + 4] = np.frombuffer(struct.pack("<I", num_layers), np.uint8)
    return state


def _layout(state: Bytes) -> _Layout:
    """Finds the parts of a kept state.

    Raises:
        StateError: it is of a form that is not known here.
    """
    try:
        found = _parts(state.data)
    except struct.error:
        found = None
    if found is None or found.end != len(state) - ROOM_BYTES:
        raise StateError("a state of an unknown form")
    return found


def _parts(raw: memoryview) -> _Layout:
    (num_cells,) = struct.unpack_from("<I", raw, _HEAD_BYTES)
    at = _HEAD_BYTES + 4 + num_cells * _CELL_BYTES
    v_trans, num_layers = struct.unpack_from("<II", raw, at)
    if v_trans:
        raise StateError("a state with transposed values")
    layers_at, at = at + 4, at + 8
    last, ends = [0, 0], [0, 0]
    for half in (0, 1):
        for _ in range(num_layers):
            last[half] = at
            _, row_bytes = _LAYER_HEAD.unpack_from(raw, at)
            at += _LAYER_HEAD.size + row_bytes * num_cells
        ends[half] = at
    return _Layout(num_cells, num_layers, layers_at, last[0], ends[0], last[1], ends[1])
