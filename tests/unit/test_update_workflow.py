"""The way to a release: every state and happening has its cell, and every way comes to an end."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.update.transitions import EXCHANGING, LIMIT_MS, MINUTE_MS, TABLE, WAY, Happening, State
from agent.update.workflow import (
    CRASHES_MS,
    FIRST_BACKOFF_MS,
    MAX_ATTEMPTS,
    MAX_BACKOFF_MS,
    MAX_CRASHES,
    MAX_FETCH_ATTEMPTS,
    PROBATION_MS,
    Done,
    Failed,
    Goal,
    Refused,
    Troubled,
    Update,
    Work,
    cancelled,
    crashed,
    due,
    ended,
    passed,
    progressed,
    reported,
    restarted,
    wished,
)
from contract.steering import Reported

OLD, NEW = Goal(1, "m@1"), Goal(2, "m@2")
GOOD = Update(goal=OLD, active="m@1", last_good="m@1", state=State.CONFIRMED)
OTHERS = Reported(rev=2, phase="idle", settings={"limits.queue": 8})


def work_of(now: Update, at_ms: int) -> Work:
    """What is due; there must be something."""
    work = due(now, max(at_ms, now.not_before_ms))
    assert work is not None
    return work


def end(now: Update, outcome: Done | Refused | Failed | Troubled, at_ms: int = 0) -> Update:
    """What is due ends."""
    return ended(now, work_of(now, at_ms), outcome, at_ms, 1.0)


def until(state: State) -> Update:
    """On the way to the new release, as far as `state`."""
    now = wished(GOOD, NEW, 0)
    while now.state is not state:
        now = end(now, Failed("cannot") if now.state is State.SWITCHING and state is State.RESTORING else Done())
    return now


IN = {
    **{state: until(state) for state in (*WAY, State.RESTORING, State.CONFIRMED)},
    State.IDLE: cancelled(until(State.FETCHING), 0),
    State.ROLLED_BACK: end(until(State.RESTORING), Done()),
    State.REFUSED: end(until(State.ADMITTING), Refused("cannot")),
    State.FAILED: end(until(State.FETCHING), Failed("cannot")),
}
# What each happening makes of each state, written down a second time: as letters, in the order of State.
LETTERS = dict(zip("icafsgwrkbxe", State, strict=True))
EXPECTED = {
    Happening.WISHED: "ccccccwrcccc",
    Happening.HAS_IT: "kkkkkkwrkkkk",
    Happening.DONE: "iafsgwkbkbxe",
    Happening.REFUSED: "ixxxxxrekbxe",
    Happening.FAILED: "ieeeeerekbxe",
    Happening.TROUBLED: "icafsgwrkbxe",
    Happening.TOO_LATE: "ieeeeerekbxe",
    Happening.CANCELLED: "iiiiiiwrkbxe",
    Happening.RESTARTED: "icafsgwbkbxe",
    Happening.CRASHED: "rrrrrrwrrbrr",
}


def make_happen(now: Update, what: Happening) -> Update:
    """Lets it happen."""
    match what:
        case Happening.WISHED:
            return wished(now, Goal(3, "m@3"), 1)
        case Happening.HAS_IT:
            return wished(now, Goal(3, now.active), 1)
        case Happening.TOO_LATE:
            return passed(now, now.deadline_ms)
        case Happening.CANCELLED:
            return cancelled(now, 1)
        case Happening.RESTARTED:
            return restarted(now, 1)
        case Happening.CRASHED:
            now = replace(now, probation_ms=PROBATION_MS if now.state is not State.ROLLED_BACK else None)
            for _ in range(MAX_CRASHES):
                now = crashed(now, 1)
            return now
    outcomes: dict[Happening, Done | Refused | Failed | Troubled] = {
        Happening.DONE: Done(), Happening.REFUSED: Refused("cannot"), Happening.FAILED: Failed("cannot"),
        Happening.TROUBLED: Troubled("cannot"),
    }  # fmt: skip
    return ended(now, Work(now.state, now.goal.release, now.work), outcomes[what], 1, 0.5)


@pytest.mark.parametrize("what", Happening, ids=str)
@pytest.mark.parametrize("state", State, ids=str)
def test_every_happening_in_every_state_leads_where_the_table_says(state: State, what: Happening) -> None:
    """Twelve states, ten happenings; what has no cell changes no state."""
    expected = LETTERS[EXPECTED[what][list(State).index(state)]]
    assert TABLE.get((state, what), state) is expected
    assert make_happen(IN[state], what).state is expected


def test_a_release_goes_all_the_way_and_then_proves_itself() -> None:
    """It serves when confirmed, and is what is gone back to only after its probation."""
    now = until(State.SWITCHING)
    assert (now.serves, now.last_good) == ("m@1", "m@1")
    now = end(now, Done(), at_ms=100)
    assert (now.state, now.serves, now.last_good, due(now, 100)) == (State.CONFIRMED, "m@2", "m@1", None)
    assert passed(now, 99 + PROBATION_MS).last_good == "m@1"
    now = passed(now, 100 + PROBATION_MS)
    assert (now.last_good, now.probation_ms) == ("m@2", None)
    for _ in range(2 * MAX_CRASHES):
        now = crashed(now, 101 + PROBATION_MS)
    assert now.state is State.CONFIRMED  # it has proved itself: crashes have another reason


def test_a_release_that_crashes_too_often_on_probation_gives_way() -> None:
    """Three times in ten minutes; fewer, or spread out, are not too often. Restarts of the agent count."""
    now = IN[State.CONFIRMED]
    for at_ms in range(0, 10 * CRASHES_MS, CRASHES_MS // 2):
        now = crashed(now, at_ms)
    assert now.state is State.CONFIRMED
    now = restarted(now, 10 * CRASHES_MS // 2 * 2 - 1)
    now = crashed(now, 10 * CRASHES_MS)
    assert (now.state, now.serves) == (State.RESTORING, "m@1")
    now = end(now, Done())
    assert (now.state, now.active, now.error) == (
        State.ROLLED_BACK, "m@1", "cannot keep m@2: it crashed 3 times in 10 minutes",
    )  # fmt: skip
    assert passed(now, 1 << 50).last_good == "m@1"


def test_a_release_on_its_way_out_does_not_become_the_last_good_one() -> None:
    """Its probation ends while the one before it is being restored."""
    now = IN[State.CONFIRMED]
    for _ in range(MAX_CRASHES):
        now = crashed(now, PROBATION_MS - 1)
    now = passed(now, PROBATION_MS)
    assert (now.state, now.serves, work_of(now, PROBATION_MS).release) == (State.RESTORING, "m@1", "m@1")


def test_what_was_on_its_way_goes_on_after_a_rollback() -> None:
    """A crashing release does not take its successor with it."""
    now = wished(IN[State.CONFIRMED], Goal(3, "m@3"), 0)
    now = end(end(now, Done()), Done())
    for _ in range(MAX_CRASHES):
        now = crashed(now, 1)
    assert (now.state, now.next_goal) == (State.RESTORING, Goal(3, "m@3"))
    now = end(now, Done())
    assert (now.state, now.goal, now.active, now.next_goal) == (State.CHECKING, Goal(3, "m@3"), "m@1", None)


def test_a_newer_goal_waits_while_models_are_exchanged() -> None:
    """And begins at once afterwards; going back to what serves needs nothing."""
    for state in EXCHANGING:
        now = wished(IN[state], Goal(3, "m@3"), 1)
        assert (now.state, now.goal, work_of(now, 1)) == (state, NEW, work_of(IN[state], 1))
        now = end(now, Done(), 2)
        assert (now.state, now.goal) == (State.CHECKING, Goal(3, "m@3"))
    now = end(wished(IN[State.SWITCHING], Goal(3, "m@2"), 1), Done(), 2)
    assert (now.state, now.goal.rev, now.active) == (State.CONFIRMED, 3, "m@2")


def test_a_document_that_was_renewed_disturbs_nothing() -> None:
    """The same release under a newer revision: what is on its way goes on, also in the middle of its work."""
    work = work_of(IN[State.FETCHING], 0)
    now = wished(progressed(IN[State.FETCHING], work, 0.5), Goal(3, "m@2"), 9)
    assert (now.state, now.progress, now.goal.rev) == (State.FETCHING, 0.5, 3)
    assert ended(now, work, Done(), 10, 0.5).state is State.ASSEMBLING
    assert wished(now, NEW, 11) == wished(now, Goal(3, "m@4"), 11) == now
    probation = IN[State.CONFIRMED]
    assert wished(probation, Goal(3, "m@2"), 5).probation_ms == probation.probation_ms


def test_what_was_judged_here_is_not_tried_again_for_a_renewed_document() -> None:
    """By the gate or by crashes; what was refused for want of space is, and another release always."""
    judged = end(IN[State.GATING], Refused("cannot serve it", {"passed": False}))
    for now in (judged, IN[State.ROLLED_BACK]):
        assert wished(now, Goal(3, "m@2"), 1) == replace(now, goal=Goal(3, "m@2"))
        assert wished(now, Goal(3, "m@3"), 1).state is State.CHECKING
    assert wished(IN[State.REFUSED], Goal(3, "m@2"), 1).state is State.CHECKING


def test_trouble_is_tried_again_later_and_later_but_not_for_ever() -> None:
    """Doubling up to a cap, with chance, at least what the source asks for; then it has failed, and says why."""
    now = IN[State.CHECKING]
    for number in range(MAX_ATTEMPTS - 1):
        now = ended(now, work_of(now, 0), Troubled("no route"), 0, 0.0 if number else 1.0)
        assert now.not_before_ms == FIRST_BACKOFF_MS * 2**number // (2 if number else 1)
        assert due(now, now.not_before_ms - 1) is None
    now = end(now, Troubled("no route"))
    assert (now.state, now.error) == (State.FAILED, "cannot finish checking in 3 attempts; the last one: no route")
    now = IN[State.FETCHING]
    assert ended(now, work_of(now, 0), Troubled("busy", after_ms=7 * MINUTE_MS), 5, 0.5).not_before_ms == (
        5 + 7 * MINUTE_MS
    )
    for _ in range(MAX_FETCH_ATTEMPTS - 1):
        now = end(now, Troubled("no route"))
        assert now.not_before_ms <= MAX_BACKOFF_MS
    assert now.state is State.FETCHING
    assert end(now, Troubled("no route")).state is State.FAILED


def test_progress_makes_attempts_whole_and_never_goes_back() -> None:
    """Fifty kills with a little done between them are no fifty failures."""
    now = IN[State.FETCHING]
    for number in range(1, 4 * MAX_FETCH_ATTEMPTS):
        now = restarted(progressed(now, work_of(now, 0), number / 1000), 0)
    assert (now.state, now.num_vain) == (State.FETCHING, 1)
    assert progressed(now, work_of(now, 0), 0.1) == now
    shares = [reported(IN[state], OTHERS, 0).progress for state in (*WAY, State.CONFIRMED)]
    assert shares == sorted(set(shares))
    assert reported(end(now, Troubled("x")), OTHERS, 0).progress == reported(now, OTHERS, 0).progress


@pytest.mark.parametrize("state", WAY, ids=str)
def test_an_agent_that_dies_again_and_again_stops_trying(state: State) -> None:
    """In each state; the old release serves all the time."""
    now = IN[state]
    for _ in range(MAX_FETCH_ATTEMPTS):
        assert now.serves == "m@1"
        now = restarted(msgspec.json.decode(msgspec.json.encode(now), type=Update), 1)
    assert now.state is (State.ROLLED_BACK if state is State.SWITCHING else State.FAILED)
    assert "the agent ended" in (now.error or "")


def test_late_results_are_nobodys() -> None:
    """Those of an attempt that is over, of a state that was left, of a release that is not wanted any more."""
    now = IN[State.FETCHING]
    work = work_of(now, 0)
    again = ended(now, work, Troubled("no route"), 0, 0.5)
    for later in (again, cancelled(now, 0), wished(now, Goal(3, "m@3"), 0), end(now, Done())):
        assert ended(later, work, Done(), 1, 0.5) == later
        assert progressed(later, work, 0.9) == later


def test_the_report_is_that_of_the_contract() -> None:
    """Its phase, how long it lasts at most, what the gate said; the rest is as others made it."""
    gate = {"passed": False, "reasons": ["answer 1 is empty"]}
    now = end(IN[State.GATING], Refused("cannot serve it: answer 1 is empty", gate))
    said = reported(now, OTHERS, 7)
    assert (said.phase, said.gate, said.error) == ("refused", gate, "cannot serve it: answer 1 is empty")
    assert said.settings == {"limits.queue": 8}
    assert reported(IN[State.RESTORING], OTHERS, 7).phase == "switching"
    assert reported(IN[State.GATING], OTHERS, 7).within_ms == LIMIT_MS[State.GATING] - 7
    for state in State:
        said = reported(IN[state], OTHERS, 7)
        assert msgspec.json.decode(msgspec.json.encode(said), type=Reported) == said


NEWS = st.lists(
    st.one_of(
        st.tuples(st.just("wish"), st.integers(1, 6)),
        st.tuples(st.just("end"), st.sampled_from([Done(), Refused("x"), Failed("x"), Troubled("x", 90)])),
        st.tuples(st.just("progress"), st.floats(0, 1)),
        st.tuples(st.just("time"), st.integers(0, 2 * PROBATION_MS)),
        st.tuples(st.sampled_from(["restart", "crash", "cancel"]), st.none()),
    ),
    max_size=40,
)  # fmt: skip


@given(NEWS)
def test_whatever_happens_what_serves_is_whole_and_it_ends(news: list[tuple[str, object]]) -> None:
    """What serves once was switched to, what is good was confirmed, and silence leads to an end."""
    now, at_ms = Update(), 0
    switched: set[str | None] = {None}
    for kind, detail in news:
        at_ms += detail if kind == "time" and isinstance(detail, int) else 1
        before, work = now, due(now, at_ms)
        match kind, detail:
            case "wish", int(rev):
                now = wished(now, Goal(rev, f"m@{rev % 3}"), at_ms)
            case "end", Done() | Refused() | Failed() | Troubled() as outcome if work:
                if work.state is State.SWITCHING:
                    switched.add(work.release)
                now = ended(now, work, outcome, at_ms, 0.5)
            case "progress", float(part) if work:
                now = progressed(now, work, part)
            case "restart", _:
                now = restarted(now, at_ms)
            case "crash", _:
                now = crashed(now, at_ms)
            case "cancel", _:
                now = cancelled(now, at_ms)
        now = passed(now, at_ms)
        assert {now.active, now.last_good, now.serves} <= switched
        assert now.goal.rev >= before.goal.rev
        assert now.is_over or at_ms < now.deadline_ms <= at_ms + max(LIMIT_MS.values())
        assert now.is_over or work_of(now, at_ms).number > before.work or now.state is before.state
        assert now.state is not State.CONFIRMED or now.active == now.goal.release
    for _ in range(4):  # a state, restoring, and both again for a goal that waited
        now = passed(now, at_ms := max(at_ms, now.deadline_ms))
    assert now.is_over
