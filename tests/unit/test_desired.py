"""From what a node is to be and what it is, to steps."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.desired import Activate, Change, Impossible, Present, Running, Step, Wish, is_attainable, plan

PRESENT = Present(
    models={"small@1": "aa", "large@1": "bb"},
    adapters={"wish@1": "aa", "wish@2": "aa", "poem@1": "bb"},
    configured_model="small@1",
    configured_settings={"limits.queue": 64, "log.level": "info"},
)
CONFIGURED = Running(model="small@1", adapters=[], settings=PRESENT.configured_settings)

WISHES = st.builds(
    Wish,
    model=st.sampled_from([None, "small@1", "large@1", "gone@1"]),
    adapters=st.lists(st.sampled_from(["wish@1", "wish@2", "poem@1", "gone@1"]), max_size=2, unique=True),
    settings=st.dictionaries(
        st.sampled_from(["limits.queue", "log.level", "limits.none"]), st.sampled_from([8, 9, "debug", 0]), max_size=2
    ),
)


def apply(step: Step, running: Running) -> Running:
    """What a step does on a node."""
    if isinstance(step, Change):
        return replace(running, settings=running.settings | {step.name: step.value})
    return replace(running, model=step.model, adapters=step.adapters)


def test_steps_are_the_difference() -> None:
    """Settings first, in the order of their names, then model and adapters together."""
    wish = Wish(model="large@1", adapters=["poem@1"], settings={"log.level": "debug", "limits.queue": 8})
    assert plan(wish, PRESENT, CONFIGURED) == [
        Change("limits.queue", 8),
        Change("log.level", "debug"),
        Activate("large@1", ["poem@1"]),
    ]


def test_what_is_so_already_needs_no_step() -> None:
    """Also when it is named."""
    assert plan(Wish(), PRESENT, CONFIGURED) == []
    assert plan(Wish(model="small@1", settings={"limits.queue": 64}), PRESENT, CONFIGURED) == []


def test_what_is_no_longer_wished_for_goes_back() -> None:
    """To what the node's own configuration says."""
    running = Running(model="large@1", adapters=["poem@1"], settings={"limits.queue": 8, "log.level": "info"})
    assert plan(Wish(), PRESENT, running) == [Change("limits.queue", 64), Activate("small@1", [])]


def test_every_impossible_wish_is_named() -> None:
    """All at once, each with what would do, so that one more try is enough."""
    settings: dict[str, Any] = {"limits.queue": 0, "limits.quee": 1}
    found = plan(Wish(model="small@1", adapters=["none@1", "poem@1"], settings=settings), PRESENT, CONFIGURED)
    assert isinstance(found, Impossible)
    assert found.reason.count("cannot ") == 4
    assert "this node has poem@1, wish@1, wish@2" in found.reason
    assert "it was made for another base" in found.reason
    missing = plan(Wish(model="huge@1"), PRESENT, CONFIGURED)
    assert missing == Impossible("cannot activate model 'huge@1': this node has large@1, small@1")


def test_what_releases_may_bring_is_attainable() -> None:
    """A name without a version is no release, and no release makes a setting right."""
    assert is_attainable(Wish(model="huge@1", adapters=["none@1", "wish@1"], settings={"limits.queue": 1}), PRESENT)
    assert is_attainable(Wish(), PRESENT)
    assert not is_attainable(Wish(model="huge"), PRESENT)
    assert not is_attainable(Wish(adapters=["none"]), PRESENT)
    assert not is_attainable(Wish(model="huge@1", settings={"limits.queue": 0}), PRESENT)


@given(st.lists(WISHES, max_size=4))
def test_planning_is_idempotent(wishes: list[Wish]) -> None:
    """From wherever a node is, after any number of the steps the rest is planned, and at the end nothing."""
    running = CONFIGURED
    for wish in wishes:
        steps = plan(wish, PRESENT, running)
        if isinstance(steps, Impossible):
            continue
        for number, step in enumerate(steps):
            assert plan(wish, PRESENT, running) == steps[number:]
            running = apply(step, running)
        assert plan(wish, PRESENT, running) == []
        assert running.settings == PRESENT.configured_settings | wish.settings
