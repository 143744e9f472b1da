"""The way to a wish: it always ends, well or not, by its deadline."""

from hypothesis import given
from hypothesis import strategies as st

from agent.convergence import (
    CHECKING_MS,
    LIMIT_MS,
    MAX_ATTEMPTS,
    SWITCHING_MS,
    TABLE,
    Convergence,
    Do,
    Happening,
    Plan,
    State,
    due,
    ended,
    passed,
    planned,
    reported,
    restarted,
    wished,
)
from agent.desired import Change, Impossible, Running, Step, Wish

OLD, NEW = Wish(rev=1, model="m@1"), Wish(rev=2, model="m@2")
ONE, TWO = Change("limits.queue", 8), Change("log.level", "debug")
RUNNING = Running(model="m@1", adapters=[], settings={})
GOOD = Convergence(wish=OLD, last_good=OLD, state=State.CONFIRMED)
CHECKING = wished(GOOD, NEW, 0)
SWITCHING = planned(CHECKING, NEW, [ONE, TWO], 0)
RESTORING = ended(SWITCHING, ONE, "cannot do it", 0)


def test_a_wish_is_planned_done_and_confirmed() -> None:
    """One thing at a time; then it is what is gone back to."""
    assert due(CHECKING) == Plan(NEW)
    assert due(SWITCHING) == Do(ONE)
    half = ended(SWITCHING, ONE, None, 5)
    assert (due(half), reported(half, RUNNING, 100).progress) == (Do(TWO), 0.5)
    assert reported(half, RUNNING, 100).within_ms == SWITCHING_MS - 100
    done = ended(half, TWO, None, 6)
    assert (done.state, done.last_good, due(done)) == (State.CONFIRMED, NEW, None)
    assert (reported(done, RUNNING, 7).phase, reported(done, RUNNING, 7).within_ms) == ("confirmed", None)


def test_a_wish_that_is_fulfilled_already_is_confirmed_at_once() -> None:
    """There is nothing to switch."""
    assert planned(CHECKING, NEW, [], 0).state is State.CONFIRMED


def test_an_impossible_wish_is_refused_once() -> None:
    """Not tried again until there is a newer one; what is in force stays."""
    refused = planned(CHECKING, NEW, Impossible("cannot activate it"), 0)
    assert (refused.state, refused.error, due(refused)) == (State.REFUSED, "cannot activate it", None)
    assert wished(refused, NEW, 9) == restarted(refused, 9) == passed(refused, 1 << 60) == refused
    assert wished(refused, Wish(rev=3), 9).state is State.CHECKING


def test_a_step_that_fails_brings_back_what_was_good() -> None:
    """And the reason stays to be read."""
    assert (RESTORING.state, due(RESTORING)) == (State.RESTORING, Plan(OLD))
    assert reported(RESTORING, RUNNING, 0).phase == "switching"
    back = ended(planned(RESTORING, OLD, [ONE], 1), ONE, None, 2)
    assert (back.state, back.error, back.last_good) == (State.ROLLED_BACK, "cannot do it", OLD)


def test_what_cannot_be_brought_back_has_failed() -> None:
    """It says so instead of trying for ever."""
    assert planned(RESTORING, OLD, Impossible("cannot"), 0).state is State.FAILED
    assert ended(planned(RESTORING, OLD, [ONE], 1), ONE, "cannot", 2).state is State.FAILED


def test_every_state_ends_by_its_deadline() -> None:
    """Also when nobody ever answers."""
    assert passed(CHECKING, CHECKING_MS - 1) == CHECKING
    assert passed(CHECKING, CHECKING_MS).state is State.FAILED
    assert passed(SWITCHING, SWITCHING_MS).state is State.RESTORING
    assert passed(RESTORING, SWITCHING_MS).state is State.FAILED


def test_an_agent_that_dies_of_a_wish_stops_trying() -> None:
    """Each start tries it anew, a few times; a restore is over with the start itself."""
    now = SWITCHING
    for _ in range(MAX_ATTEMPTS - 1):
        now = restarted(now, 0)
        assert due(now) == Plan(NEW)
    assert restarted(now, 0).state is State.FAILED
    assert restarted(RESTORING, 0).state is State.ROLLED_BACK


def test_what_was_confirmed_is_looked_at_again_after_a_start() -> None:
    """However often: files may have gone, and starting is no failed attempt."""
    now = GOOD
    for _ in range(2 * MAX_ATTEMPTS):
        now = restarted(now, 0)
        assert due(now) == Plan(OLD)
        now = planned(now, OLD, [], 0)
        assert now.state is State.CONFIRMED


def test_late_results_are_nobodys() -> None:
    """Those of a wish that was replaced, of a step that is not due, of a plan for another goal."""
    newer = wished(SWITCHING, Wish(rev=3), 1)
    assert ended(newer, ONE, None, 2) == newer
    assert planned(newer, NEW, [ONE], 2) == newer
    assert ended(SWITCHING, TWO, None, 2) == SWITCHING
    assert planned(RESTORING, NEW, [ONE], 2) == RESTORING


def test_older_wishes_change_nothing() -> None:
    """Neither an older revision of the node's own nor of a group's policy."""
    now = wished(GOOD, Wish(rev=2, policies={"stores": 5}), 0)
    assert wished(now, Wish(rev=1, policies={"stores": 6}), 1) == now
    assert wished(now, Wish(rev=2, policies={"stores": 4}), 1) == now
    assert wished(now, Wish(rev=2, policies={"stores": 6}), 1) != now
    assert wished(now, Wish(rev=3), 1).wish.policies == {}  # it left the group


def test_the_table_is_whole() -> None:
    """Every state with a deadline has a way out when it passes and when the agent starts anew; all are reachable."""
    for state in LIMIT_MS:
        assert (state, Happening.TOO_LATE) in TABLE
        assert (state, Happening.RESTARTED) in TABLE
    assert set(State) == {*TABLE.values(), State.IDLE}


HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("wish"), st.integers(1, 5)),
        st.tuples(st.just("plan"), st.sampled_from([None, 0, 1, 2])),
        st.tuples(st.just("step"), st.sampled_from([None, "cannot"])),
        st.tuples(st.just("time"), st.integers(0, SWITCHING_MS)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=30,
)


@given(HAPPENINGS)
def test_whatever_happens_it_ends(happenings: list[tuple[str, int | str | None]]) -> None:
    """Revisions never go down, what is good was once confirmed, and silence leads to an end within two deadlines."""
    now, at_ms = Convergence(), 0
    confirmed = {0}
    for kind, detail in happenings:
        before = now
        at_ms += detail if kind == "time" and isinstance(detail, int) else 1
        now = _happen(now, kind, detail, at_ms)
        assert now.wish.rev >= before.wish.rev
        if now.state is State.CONFIRMED:
            confirmed.add(now.wish.rev)
        assert now.last_good.rev in confirmed
        assert now.is_over or now.deadline_ms - at_ms <= SWITCHING_MS
        assert 0 <= reported(now, RUNNING, at_ms).progress <= 1
    now = passed(passed(now, at_ms + SWITCHING_MS), at_ms + 2 * SWITCHING_MS)
    assert now.is_over


def _happen(now: Convergence, kind: str, detail: int | str | None, at_ms: int) -> Convergence:
    steps: list[Step] = [ONE, TWO]
    task = due(now)
    match kind, detail:
        case "wish", int(rev):
            return wished(now, Wish(rev=rev), at_ms)
        case "plan", int(number) if isinstance(task, Plan):
            return planned(now, task.goal, steps[:number], at_ms)
        case "plan", None if isinstance(task, Plan):
            return planned(now, task.goal, Impossible("cannot"), at_ms)
        case "step", error if isinstance(task, Do):
            return ended(now, task.step, None if error is None else str(error), at_ms)
        case "restart", _:
            return restarted(now, at_ms)
    return passed(now, at_ms)
