"""Which lane sequences run in."""

from agent.engine.routing import SINGLE_STEPS, Routing

A, B = "a", "b"


def test_one_adapter_needs_no_slots() -> None:
    """Any number of sequences with the same adapter, or none, run in the plain lane."""
    routing = Routing()
    assert not routing.note_step([])
    assert not routing.note_step([A])
    assert not routing.note_step([A, A, A])
    assert not routing.note_step([None, None])


def test_a_second_adapter_brings_slots_at_once() -> None:
    """Also when the other one is the base."""
    assert Routing().note_step([A, B])
    assert Routing().note_step([A, None])


def test_a_lull_is_no_reason_to_move() -> None:
    """Slots stay until a single adapter has been in flight for long."""
    routing = Routing()
    routing.note_step([A, B])
    assert all(routing.note_step([A]) for _ in range(SINGLE_STEPS - 1))
    assert not routing.note_step([A])
    assert not routing.note_step([A])


def test_every_mix_begins_the_count_anew() -> None:
    """A second adapter that comes now and then keeps the slots."""
    routing = Routing()
    for _ in range(4):
        assert routing.note_step([A, B])
        assert all(routing.note_step([A]) for _ in range(SINGLE_STEPS - 1))


def test_nothing_in_flight_counts_as_no_step() -> None:
    """An idle moment between requests neither moves anything nor counts."""
    routing = Routing()
    routing.note_step([A, B])
    assert all(routing.note_step([]) for _ in range(2 * SINGLE_STEPS))
    assert routing.note_step([A])
