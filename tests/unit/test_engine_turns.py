"""Whose turn it is where adapters take turns."""

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.turns import QUANTUM_STEPS, Turns


def chosen(turns: Turns, groups: set[int], steps: int) -> list[int | None]:
    """Whose the next steps are, with the same groups."""
    return [turns.choose(set(groups)) for _ in range(steps)]


def test_alone_there_are_no_turns() -> None:
    """A single group has every step, and without any there is none."""
    turns = Turns()
    assert turns.choose(set()) is None
    assert chosen(turns, {7}, 20) == [7] * 20


def test_turns_are_of_equal_length() -> None:
    """Each group has its steps in a row, round and round."""
    steps = chosen(Turns(), {1, 2, 3}, 6 * QUANTUM_STEPS)
    rounds = [steps[at : at + QUANTUM_STEPS] for at in range(0, len(steps), QUANTUM_STEPS)]
    assert all(len(set(turn)) == 1 for turn in rounds)
    order = [turn[0] for turn in rounds]
    assert order[:3] == order[3:]
    assert set(order) == {1, 2, 3}


def test_a_group_that_ends_leaves_the_rest_of_its_turn() -> None:
    """The next step belongs to somebody who has something to compute."""
    turns = Turns()
    first = turns.choose({1, 2})
    assert first is not None
    assert turns.choose({1, 2} - {first}) == 3 - first


def test_who_just_came_waits_for_who_waited_longer() -> None:
    """A flow of short requests, each of an adapter that was not there before, does not shut out a long one."""
    turns = Turns()
    steps = [turns.choose({1, 2 + number // QUANTUM_STEPS}) for number in range(20 * QUANTUM_STEPS)]
    assert steps.count(1) >= 8 * QUANTUM_STEPS


@given(st.lists(st.sets(st.integers(2, 6), max_size=3), min_size=1, max_size=60))
def test_nobody_waits_for_ever(others: list[set[int]]) -> None:
    """Whatever comes and goes, a group that is always there has a turn in every round."""
    turns = Turns()
    waited = 0
    for present in others:
        step = turns.choose({1, *present})
        assert step in {1, *present}
        waited = 0 if step == 1 else waited + 1
        assert waited <= 4 * QUANTUM_STEPS
