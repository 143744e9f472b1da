"""Whether an engine fits, and which idle ones go for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.memory import MIB, Loaded, Need, NoRoomError, budget_bytes, make_room


def need(mib: int) -> Need:
    """A need of so much in all."""
    return Need(weights_bytes=mib * MIB, kv_bytes=0, margin_bytes=0)


def test_an_operators_figure_is_the_budget() -> None:
    """Whatever the machine has."""
    assert budget_bytes(512, 10 * MIB, 0) == 512 * MIB


def test_without_a_figure_a_share_of_what_the_machine_has_for_engines() -> None:
    """What engines have taken already counts as theirs, so that loading one does not shrink the budget for all."""
    assert budget_bytes(0, 1000 * MIB, 0) == 800 * MIB
    assert budget_bytes(0, 600 * MIB, 400 * MIB) == 800 * MIB


def test_what_fits_ends_nobody() -> None:
    """Idle models stay loaded as long as there is room."""
    assert make_room("new@1", need(40), 100 * MIB, [Loaded("a@1", need(60), 9.0)]) == []


def test_the_one_that_was_idle_longest_goes_first() -> None:
    """And only as many go as are needed."""
    loaded = [Loaded("a@1", need(30), 5.0), Loaded("b@1", need(30), 50.0), Loaded("c@1", need(30), None)]
    assert make_room("new@1", need(40), 100 * MIB, loaded) == ["b@1"]


def test_nobody_goes_for_nothing() -> None:
    """A small model that was idle longest stays when the room comes from a large one."""
    loaded = [Loaded("small@1", need(5), 50.0), Loaded("large@1", need(60), 5.0)]
    assert make_room("new@1", need(60), 100 * MIB, loaded) == ["large@1"]


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    """What it needs and of what, what is free, and who stays."""
    wanted = Need(weights_bytes=640 * MIB, kv_bytes=92 * MIB, margin_bytes=80 * MIB)
    loaded = [Loaded("busy@1", need(524), None), Loaded("idle@1", need(100), 3.0)]
    with pytest.raises(NoRoomError) as refused:
        make_room("x@1", wanted, 1024 * MIB, loaded)
    assert str(refused.value) == (
        "cannot load model x@1: it needs 812 MiB (weights 640, KV 92, margin 80) and 500 MiB of the budget of 1024 MiB"
        " are free, with busy@1 in use; a smaller [model] context_tokens or [engine] parallel needs less"
    )


@given(
    wanted=st.integers(0, 200),
    budget=st.integers(0, 300),
    others=st.lists(st.tuples(st.integers(0, 100), st.one_of(st.none(), st.floats(0, 1e6))), max_size=6),
)
def test_room_is_made_or_refused_and_never_overdrawn(
    wanted: int, budget: int, others: list[tuple[int, float | None]]
) -> None:
    """Afterwards all fits; none that must stay is ended; none of the ended could have stayed; refusals are right."""
    loaded = [Loaded(str(number), need(mib), idle_s) for number, (mib, idle_s) in enumerate(others)]
    left = {one.label: one for one in loaded}
    try:
        ended = make_room("new", need(wanted), budget * MIB, loaded)
    except NoRoomError:
        assert wanted + sum(mib for mib, idle_s in others if idle_s is None) > budget
        return
    for label in ended:
        assert left.pop(label).idle_s is not None
    spare = budget - wanted - sum(one.need.weights_bytes // MIB for one in left.values())
    assert spare >= 0 or not ended
    by_label = {one.label: one for one in loaded}
    assert all(by_label[label].need.weights_bytes // MIB > spare for label in ended)
