"""Several releases of a node: which update is due, what is in force meanwhile, what the node says of all of them."""

from collections.abc import Callable

from msgspec.structs import replace

from agent.desired import Present, Running, Wish
from agent.update.slots import MODEL, Slots, due, each, in_force, next_ms, reported, slot_of, wished
from agent.update.transitions import State
from agent.update.workflow import (
    MAX_CRASHES,
    PROBATION_MS,
    Done,
    Failed,
    Goal,
    Refused,
    crashed,
    ended,
    given_up,
    passed,
)
from contract.steering import Reported

PRESENT = Present(
    models={"m@1": "aa"}, adapters={"tone@1": "aa"}, configured_model="m@1", configured_settings={}
)  # fmt: skip
RUNNING = Running(model="m@1", adapters=["tone@1"], settings={})
OTHERS = Reported(rev=2, phase="confirmed", active="m@1", adapters=["tone@1"], last_good="m@1")
TONE = slot_of("tone@1")


def wish(now: Slots, rev: int, model: str | None = "m@1", adapters: tuple[str, ...] = ("tone@1",)) -> Slots:
    """A wish on a node that has m@1 and tone@1."""
    return wished(now, Wish(rev=rev, model=model, adapters=list(adapters)), PRESENT, RUNNING, 0)


def end(now: Slots, outcome: Done | Refused | Failed, *, until: Callable[[Slots], bool], at_ms: int = 0) -> Slots:
    """What is due ends so, again and again."""
    while not until(now):
        work = due(now, at_ms)
        assert work is not None
        now = now.moved(work[0], ended(now.slots[work[0]], work[1], outcome, at_ms, 0.5))
    return now


def is_over(now: Slots) -> bool:
    """Whether nothing is under way."""
    return all(update.is_over for update in now.slots.values())


def test_what_the_node_has_is_not_an_update() -> None:
    """It is convergence's, until the first release comes that the node lacks; that one's slot is kept from then on."""
    assert wish(Slots(), 1) == Slots()
    assert wish(Slots(), 1, model=None, adapters=()) == Slots()
    now = wish(Slots(), 1, "m@2")
    assert (set(now.slots), now.slots[MODEL].goal, now.slots[MODEL].active) == ({MODEL}, Goal(1, "m@2"), "m@1")
    back = wish(end(now, Done(), until=is_over), 2, "m@1")
    assert back.slots[MODEL].goal == Goal(2, "m@1")
    assert back.slots[MODEL].state is State.CHECKING


def test_updates_are_serial_and_the_model_is_first() -> None:
    """An adapter waits for the model's update to end, also while that waits to try again."""
    now = wish(Slots(), 1, "m@2", ("tone@2",))
    first = due(now, 0)
    assert first is not None
    assert first[0] == MODEL
    waiting = now.moved(MODEL, replace(now.slots[MODEL], not_before_ms=99))
    assert due(waiting, 0) is None
    assert next_ms(waiting) == 99
    over = end(now, Done(), until=lambda now: now.slots[MODEL].is_over)
    second = due(over, 0)
    assert second is not None
    assert (second[0], second[1].release) == (TONE, "tone@2")


def test_what_is_in_force_is_what_serves() -> None:
    """The new release from when it is confirmed, the one before when it failed; an adapter only where it fits."""
    want = Wish(rev=1, model="m@2", adapters=["tone@2", "other@1"])
    bases = {"tone@1": "m@1", "tone@2": "m@2", "other@1": "m@1"}

    def fits(adapter: str, model: str | None) -> bool:
        return bases[adapter] == model

    now = wish(Slots(), 1, "m@2", ("tone@2", "other@1"))
    del now.slots[slot_of("other@1")]  # that one is convergence's
    assert in_force(want, now, fits) == Wish(rev=1, model="m@1", adapters=["tone@1", "other@1"])
    now = end(now, Done(), until=lambda now: now.slots[MODEL].is_over)
    assert in_force(want, now, fits).model == "m@2"
    assert in_force(want, now, fits).adapters == ["other@1"]  # convergence says what is wrong with it
    now = end(now, Done(), until=is_over)
    assert in_force(want, now, fits).adapters == ["tone@2", "other@1"]
    broken = each(now, lambda update: given_up(update, "why", 5))
    assert in_force(want, broken, fits) == Wish(rev=1, model="m@1", adapters=["tone@1", "other@1"])
    only_model = now.moved(MODEL, given_up(now.slots[MODEL], "why", 5))
    assert in_force(want, only_model, fits).adapters[:1] == ["tone@1"]  # of the model that is gone back to


def test_an_adapter_that_is_not_wished_for_any_more_goes() -> None:
    """Through its slot, which goes with it; also when its release never came."""
    now = end(wish(Slots(), 1, adapters=("tone@2",)), Done(), until=is_over)
    assert now.slots[TONE].active == "tone@2"
    dropped = wish(now, 2, adapters=())
    assert in_force(Wish(rev=2, model="m@1"), dropped, lambda _, __: True).adapters == ["tone@2"]
    assert end(dropped, Done(), until=is_over).slots == {}
    failed = end(wish(Slots(), 1, adapters=("new@1",)), Failed("cannot"), until=is_over)
    assert wish(failed, 2, adapters=()).slots == {}


def test_the_report_is_of_what_is_under_way_or_of_the_worst_end() -> None:
    """Settings that are still under way are told of before releases that have ended."""
    now = wish(Slots(), 1, "m@2", ("tone@2",))
    assert reported(now, OTHERS, 0).phase == "checking"
    now = end(now, Done(), until=lambda now: now.slots[MODEL].is_over)
    assert reported(now, OTHERS, 0).phase == "checking"  # the adapter's
    now = end(now, Refused("cannot", {"passed": False}), until=is_over)
    said = reported(now, OTHERS, 0)
    assert (said.phase, said.gate, said.error, said.last_good) == ("refused", {"passed": False}, "cannot", "m@1")
    assert reported(now, Reported(rev=3, phase="switching"), 0).phase == "switching"
    assert reported(now, Reported(rev=3, phase="failed", error="x"), 0).error == "x; cannot"
    again = wish(now, 4, "m@3")
    assert reported(again, Reported(rev=4, phase="refused", error="x"), 0).error == "x"
    good = end(wish(Slots(), 1, "m@2"), Done(), until=is_over)
    assert reported(good, OTHERS, 0).phase == "confirmed"
    assert reported(Slots(), OTHERS, 0) == OTHERS


def test_crashes_concern_all_that_is_on_probation() -> None:
    """Nobody can tell which of them it was; what has proved itself stays."""
    now = end(wish(Slots(), 1, "m@2"), Done(), until=is_over)
    now = each(now, lambda update: passed(update, PROBATION_MS))
    now = end(wish(now, 2, "m@2", ("tone@2",)), Done(), until=is_over, at_ms=PROBATION_MS)
    for _ in range(MAX_CRASHES):
        now = each(now, lambda update: crashed(update, PROBATION_MS))
    assert (now.slots[MODEL].state, now.slots[TONE].state) == (State.CONFIRMED, State.RESTORING)
    work = due(now, PROBATION_MS)
    assert work is not None
    assert (work[0], work[1].release) == (TONE, "tone@1")
