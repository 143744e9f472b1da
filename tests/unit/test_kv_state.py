"""Saved key-value memory, with and without the layer that selects slots. States are made by hand here."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.kv_state import (
    MAX_STREAMS,
    ROOM_BYTES,
    Bytes,
    Router,
    StateError,
    of_one_stream,
    of_streams,
    saved,
    with_router,
    without_router,
)

ROUTER = Router(head_size=16, gain=15.0, slot=2, activation=1)


def written(
    num_cells: int = 3,
    num_layers: int = 2,
    *,
    key_bytes: int = 8,
    value_bytes: int = 12,
    stream: int = 0,
    num_streams: int = 1,
    v_trans: int = 0,
) -> Bytes:
    """A state of positions 0, 1, 2… in a stream, as llama.cpp writes it, and the room behind it."""
    random = np.random.default_rng(1)
    raw = struct.pack("<III", 0x67677371, 0, num_streams) + bytes(4 * stream)
    raw += struct.pack("<I", num_cells)
    raw += b"".join(struct.pack("<iIi", position, 1, 0) for position in range(num_cells))
    raw += struct.pack("<II", v_trans, num_layers)
    for row_bytes in [key_bytes] * num_layers + [value_bytes] * num_layers:
        raw += struct.pack("<iQ", 1, row_bytes) + random.bytes(row_bytes * num_cells)
    return np.frombuffer(raw + bytes(4 * (num_streams - 1 - stream)) + bytes(ROOM_BYTES), np.uint8).copy()


def state(num_cells: int = 3, num_layers: int = 2, **sizes: int) -> Bytes:
    """A state in the form that is kept."""
    return of_one_stream(written(num_cells, num_layers, **sizes))


@given(streams=st.tuples(st.integers(1, MAX_STREAMS), st.integers(1, MAX_STREAMS)), data=st.data())
def test_a_state_moves_between_contexts_of_any_number_of_streams(streams: tuple[int, int], data: st.DataObject) -> None:
    """What one context wrote from any of its streams, another one reads as if it had written it from its first."""
    stream = data.draw(st.integers(0, streams[0] - 1))
    kept = of_one_stream(written(stream=stream, num_streams=streams[0]))
    for num_streams in (streams[1], 1, MAX_STREAMS, streams[1]):
        expected = written(num_streams=num_streams)[:-ROOM_BYTES]
        assert of_streams(kept, num_streams).tobytes() == expected.tobytes()


def test_a_stream_that_holds_nothing_is_no_state() -> None:
    """There is nothing to keep."""
    with pytest.raises(StateError):
        of_one_stream(np.frombuffer(struct.pack("<IIIII", 1, 0, 2, 0, 0) + bytes(ROOM_BYTES), np.uint8).copy())


@given(
    num_cells=st.integers(1, 5),
    num_layers=st.integers(1, 4),
    rows=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    slot=st.integers(0, 12),
    activation=st.integers(0, 6),
)
def test_taking_the_layer_away_again_changes_nothing(
    num_cells: int, num_layers: int, rows: tuple[int, int], slot: int, activation: int
) -> None:
    """To the last byte, whatever the model's sizes; the state itself stays."""
    made = state(num_cells, num_layers, key_bytes=rows[0], value_bytes=rows[1])
    before = made.copy()
    dressed = with_router(made, Router(16, 15.0, slot, activation))
    assert without_router(dressed).tobytes() == before.tobytes() == made.tobytes()
    assert dressed.size == made.size + 2 * (12 + 32 * num_cells)


def test_the_layer_selects_the_slot_from_the_activation_on() -> None:
    """One more layer of keys and one of values: the cell at the activation attracts all later tokens to its slot."""
    plain, dressed = (whole[:-ROOM_BYTES].tobytes() for whole in (state(3, 1), with_router(state(3, 1), ROUTER)))
    head = 16 + 3 * 12
    assert struct.unpack_from("<II", dressed, head) == (0, 2)
    keys_end = head + 8 + 12 + 3 * 8
    assert dressed[head + 8 : keys_end] == plain[head + 8 : keys_end]
    keys, values = dressed[keys_end : keys_end + 12 + 96], dressed[-(12 + 96) :]
    assert struct.unpack_from("<iQ", keys) == struct.unpack_from("<iQ", values) == (1, 32)
    assert np.frombuffer(keys, np.float16, offset=12).reshape(3, 16)[:, 0].tolist() == [-15, 15, -15]
    assert np.frombuffer(values, np.float16, offset=12).reshape(3, 16)[:, 0].tolist() == [0, 2, 0]
    assert dressed[keys_end + 12 + 96 : -(12 + 96)] == plain[keys_end:]


def test_without_an_adapter_no_cell_selects_anything() -> None:
    """The base's sequences have slot 0 all the way."""
    dressed = with_router(state(3, 1), ROUTER._replace(slot=0))[:-ROOM_BYTES].tobytes()
    values = np.frombuffer(dressed, np.float16, offset=len(dressed) - 96)
    assert not values.any()


@pytest.mark.parametrize("change", [with_router, without_router])
def test_a_form_that_is_not_known_is_refused(change: object) -> None:
    """Transposed values, and a state that ends early or late, cannot be changed."""
    steps = {with_router: lambda made: with_router(made, ROUTER), without_router: without_router}
    step = steps[change]  # type: ignore[index]  # one of the two
    for made in (state(v_trans=1), state()[:-1], state()[:30], state()[:5], np.append(state(), np.uint8(0))):
        with pytest.raises(StateError):
            step(made)


def test_a_state_stays_whole_wherever_it_is_put_back() -> None:
    """Contexts with other numbers of streams read it again and again."""
    kept = saved(state())
    for num_streams in (4, 8, 4):
        of_streams(kept.data, num_streams)
        assert kept.whole is kept.data


def test_a_damaged_state_is_noticed() -> None:
    """One bit that changed in memory is enough."""
    kept = saved(state())
    assert kept.whole is kept.data
    kept.data[kept.data.size // 2] ^= 1
    assert kept.whole is None
