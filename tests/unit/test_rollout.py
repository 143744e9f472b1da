"""A rollout, step by step: waves, thresholds, pauses, windows, nodes that are away, and the way back."""

from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from fleet.errors import ConflictError, UsageError
from fleet.fields import Record
from fleet.rollout import orders
from fleet.rollout.amount import Amount, parse_amount
from fleet.rollout.observation import Metrics, Observation
from fleet.rollout.plan import Growth, Plan, Thresholds, check_plan
from fleet.rollout.state import Cause, Outcome, Phase, State, Wait
from fleet.rollout.step import step
from fleet.rollout.waves import choose, goal
from fleet.rollout.window import Window, is_open

OLD, NEW = "m@1", "m@2"
HOUR_MS = 3_600_000
WEDNESDAY_MS = 1_800_446_400_000 - 4 * HOUR_MS  # 2027-01-20, 08:00 UTC
ALL = Amount(100, is_percent=True)
PLAN = Plan(
    id="r1", release=NEW, targets="site=here", waves=(Amount(1), ALL), max_unavailable=Amount(2),
    abort=Thresholds(failed=Amount(1), rejected=Amount(1)),
)  # fmt: skip


class Fleet:
    """Nodes, and a controller that does what the steps say."""

    def __init__(self, plan: Plan, num_nodes: int = 6) -> None:
        self.plan, self.state, self.now_ms = plan, State(), WEDNESDAY_MS
        self.seen = {f"n{number}": observed(f"n{number}") for number in range(num_nodes)}

    def step(self, after_ms: int = 0) -> list[str]:
        """Time passes, then a step; the names of the nodes of which something is wished."""
        self.now_ms += after_ms
        self.state, wishes = step(self.plan, self.state, self.seen, self.now_ms)
        for wish in wishes:
            self.seen[wish.node] = replace(self.seen[wish.node], wished=wish.release, is_current=False)
        return [wish.node for wish in wishes]

    def says(self, names: list[str], phase: str, **changes: object) -> None:
        """Nodes report about their newest document."""
        for name in names:
            one = self.seen[name]
            active = one.wished if phase == "confirmed" else one.active
            record = replace(one.record, phase=phase, active=active)
            self.seen[name] = replace(one, record=record, active=active, is_current=True, **changes)

    def goes(self, name: str, state: str) -> None:
        """A node comes or goes."""
        one = self.seen[name]
        self.seen[name] = replace(one, record=replace(one.record, state=state))

    @property
    def wait(self) -> Wait:
        """What it waits for."""
        assert self.state.wait is not None
        return self.state.wait


def observed(name: str, **fields: object) -> Observation:
    """A node that is well and has the old release."""
    record = Record(node=name, state="online", site="here", phase="confirmed", active=OLD)
    return Observation(record=msgspec.structs.replace(record, **fields), wished=OLD, active=OLD, is_current=True)


def past_canary(plan: Plan = PLAN) -> Fleet:
    """A fleet of which the first node has confirmed, and the second wave has begun."""
    fleet = Fleet(plan)
    fleet.says(fleet.step(), "confirmed")
    fleet.step()
    fleet.step(plan.soak_ms)
    return fleet


def in_flight(fleet: Fleet) -> list[str]:
    """Nodes without an outcome."""
    return sorted(name for name, node in fleet.state.nodes.items() if node.outcome is None)


def test_a_good_release_goes_from_a_canary_to_all() -> None:
    """One node, a soak, then the others, two at a time."""
    fleet = Fleet(PLAN)
    canary = fleet.step()
    assert (len(canary), fleet.wait) == (1, Wait(Cause.NODES, tuple(canary)))
    fleet.says(canary, "confirmed")
    assert (fleet.step(), fleet.wait.cause) == ([], Cause.SOAK)
    assert fleet.step(PLAN.soak_ms - 1) == []
    given = list(canary)
    while next_ones := fleet.step(1):
        assert len(next_ones) == 2
        given += next_ones
        fleet.says(next_ones, "confirmed")
        if len(given) == 5:
            fleet.seen["n9"] = observed("n9")  # it joins, and is one of them
    assert len(given) == 7
    assert fleet.wait.cause is Cause.SOAK
    fleet.step(PLAN.soak_ms)
    assert (fleet.state.phase, fleet.state.left) == (Phase.COMPLETED, ())


def test_a_wish_that_was_not_made_is_made_by_the_next_step() -> None:
    """The controller died after it had stored the state: the same is wished again, of nobody else."""
    fleet = Fleet(PLAN)
    fleet.state, wishes = step(PLAN, State(), fleet.seen, fleet.now_ms)
    stored = msgspec.json.decode(msgspec.json.encode(fleet.state), type=State)
    assert step(PLAN, stored, fleet.seen, fleet.now_ms) == (fleet.state, wishes)
    assert len(wishes) == 1


def test_confirmed_is_only_who_has_it() -> None:
    """Not a report about an older document, nor one that names another active release."""
    fleet = Fleet(PLAN)
    [canary] = fleet.step()
    fleet.step()
    assert in_flight(fleet) == [canary]  # its last report says confirmed, but of the old document
    one = fleet.seen[canary]
    fleet.seen[canary] = replace(one, is_current=True)  # of the new document, with the old release active
    fleet.step()
    assert in_flight(fleet) == [canary]
    fleet.says([canary], "confirmed")
    fleet.step()
    assert in_flight(fleet) == []


@pytest.mark.parametrize(
    ("phase", "is_gated", "outcome", "next_phase"),
    [
        ("failed", False, Outcome.FAILED, Phase.CALLING_BACK),
        ("rolled_back", False, Outcome.FAILED, Phase.CALLING_BACK),
        ("refused", True, Outcome.REJECTED, Phase.CALLING_BACK),
        ("refused", False, Outcome.REFUSED, Phase.RUNNING),
    ],
)
def test_refused_is_neither_failed_nor_rejected(
    phase: str, is_gated: bool, outcome: Outcome, next_phase: Phase
) -> None:
    """One too many of those that speak against the release ends it; who has no room for it does not."""
    fleet = past_canary()
    two = in_flight(fleet)
    fleet.says(two, phase, is_gated=is_gated)
    fleet.step()
    assert {fleet.state.nodes[name].outcome for name in two if not fleet.state.nodes[name].is_back} <= {outcome}
    assert fleet.state.phase is next_phase


def test_another_node_takes_the_place_of_one_that_refuses() -> None:
    """A canary that cannot have it says nothing about it."""
    fleet = Fleet(PLAN)
    [canary] = fleet.step()
    fleet.says([canary], "refused")
    [other] = fleet.step()
    assert other != canary
    assert fleet.state.wave == 0


def test_a_bad_release_is_taken_back_from_all_that_have_it() -> None:
    """Those in flight at once, the others as places become free; then it is over."""
    fleet = past_canary()
    fleet.says(in_flight(fleet), "rolled_back")
    back = fleet.step()
    assert fleet.state.reasons == ("2 of 3 nodes failed; 1 may",)
    num_back = 0
    while back:
        assert len(back) <= 2
        assert {fleet.seen[name].wished for name in back} == {OLD}
        num_back += len(back)
        fleet.says(back, "confirmed")
        back = fleet.step()
    fleet.step()
    assert (num_back, fleet.state.phase, fleet.state.left) == (3, Phase.ABORTED, ())


def test_an_abort_can_leave_the_release_where_it_works() -> None:
    """Keep: who has confirmed keeps it, who has not goes back."""
    fleet = past_canary()
    [canary] = [name for name, node in fleet.state.nodes.items() if node.outcome is Outcome.CONFIRMED]
    begun = in_flight(fleet)
    fleet.state = orders.abort(fleet.state, "wrong release", reverts=False)
    assert fleet.step() == begun
    fleet.says(begun, "confirmed")
    fleet.step()
    assert (fleet.state.phase, fleet.seen[canary].wished) == (Phase.ABORTED, NEW)
    assert fleet.state.reasons == ("wrong release",)


def test_nodes_that_are_away_are_no_failures_and_come_later() -> None:
    """Those that had not begun are named and waited for, those in flight keep their place."""
    fleet = Fleet(replace(PLAN, soak_ms=0), num_nodes=4)
    fleet.goes("n0", "offline")
    for _ in range(3):
        fleet.says(fleet.step(), "confirmed")
    fleet.step()
    assert (fleet.wait, fleet.state.phase) == (Wait(Cause.AWAY, ("n0",)), Phase.RUNNING)
    fleet.goes("n0", "online")
    assert fleet.step(HOUR_MS) == ["n0"]
    fleet.goes("n0", "lost")
    fleet.step(PLAN.overdue_ms * 2)
    assert fleet.wait == Wait(Cause.AWAY, ("n0",))  # in flight, and neither failed nor overdue
    fleet.goes("n0", "online")
    fleet.says(["n0"], "confirmed")
    fleet.step()
    assert (fleet.state.phase, fleet.state.left) == (Phase.COMPLETED, ())


def test_patience_ends_and_the_rollout_says_who_was_left() -> None:
    """Completed without those that never came; with nobody at all it is no success."""
    fleet = Fleet(replace(PLAN, soak_ms=0), num_nodes=3)
    fleet.goes("n0", "lost")
    for _ in range(3):
        fleet.says(fleet.step(), "confirmed")
    fleet.step(PLAN.patience_ms)
    assert (fleet.state.phase, fleet.state.left) == (Phase.COMPLETED, ("n0",))
    nobody = Fleet(PLAN, num_nodes=0)
    nobody.step()
    nobody.step(PLAN.soak_ms)
    assert nobody.wait == Wait(Cause.MEMBERS, ("site=here",))
    nobody.step(PLAN.patience_ms)
    assert (nobody.state.phase, nobody.state.reasons) == (Phase.ABORTED, ("no node has confirmed it",))


def test_a_canary_that_vanishes_lets_nobody_follow() -> None:
    """A release that breaks machines looks like machines that went away; then somebody must decide."""
    fleet = Fleet(PLAN)
    [canary] = fleet.step()
    fleet.goes(canary, "lost")
    fleet.step()
    fleet.step(PLAN.soak_ms)
    assert fleet.wait == Wait(Cause.AWAY, (canary,))
    fleet.step(PLAN.patience_ms)
    assert fleet.wait == Wait(Cause.RESUME, ("wave 1: 1 more of 1 nodes must have confirmed",))
    fleet.state = orders.resume(fleet.state, 1)
    assert len(fleet.step()) == 1  # of two places one is still taken


def test_a_node_that_is_there_and_says_nothing_counts_as_failed() -> None:
    """And keeps its place; when it confirms after all, it has."""
    fleet = past_canary(replace(PLAN, abort=Thresholds(failed=Amount(3))))
    mute = in_flight(fleet)
    fleet.step(PLAN.overdue_ms)
    assert fleet.wait == Wait(Cause.AWAY, tuple(mute))
    assert fleet.state.phase is Phase.RUNNING
    fleet.plan = PLAN
    fleet.step()
    assert fleet.state.reasons == ("2 of 3 nodes failed; 1 may",)


def test_a_wave_that_is_not_good_enough_pauses_until_somebody_has_read_why() -> None:
    """Success thresholds are of the wave; resuming names the pause, and the wave is judged no more."""
    fleet = past_canary(
        replace(PLAN, waves=(Amount(1), Amount(4), ALL), success=Thresholds(failed=Amount(0)), soak_ms=0)
    )
    one, other = in_flight(fleet)
    fleet.says([one], "failed")
    fleet.says([other], "confirmed")
    fleet.says(fleet.step(), "confirmed")
    fleet.step()
    assert fleet.state.phase is Phase.PAUSED
    assert fleet.wait.names == ("wave 2: 1 of 3 nodes failed; 0 may; 1 more of 3 nodes must have confirmed",)
    for number in (0, 2):
        with pytest.raises(ConflictError, match="there is pause 1: wave 2: 1 of 3 nodes failed"):
            orders.resume(fleet.state, number)
    fleet.state = orders.resume(fleet.state, 1)
    assert orders.resume(fleet.state, 1) == fleet.state
    assert len(fleet.step()) == 2
    assert fleet.state.wave == 2


def test_a_pause_lets_nobody_begin_and_goes_on_watching() -> None:
    """Who has begun may end; too many failures end the rollout also now."""
    fleet = past_canary()
    one, other = in_flight(fleet)
    fleet.state = orders.pause(orders.pause(fleet.state, "lunch"), "tea")
    fleet.says([one], "confirmed")
    assert (fleet.step(HOUR_MS), fleet.wait) == ([], Wait(Cause.RESUME, ("lunch",)))
    assert in_flight(fleet) == [other]
    fleet.says([one, other], "failed")
    fleet.step()
    assert fleet.state.phase is Phase.CALLING_BACK
    with pytest.raises(ConflictError, match="cannot pause it: it is calling back"):
        orders.pause(fleet.state, "x")
    with pytest.raises(ConflictError, match="cannot resume it: it is calling back"):
        orders.resume(fleet.state, 1)


def test_a_wave_begins_only_when_it_was_approved() -> None:
    """Approval can come before it is asked for; twice is once."""
    fleet = past_canary(replace(PLAN, approve_before=(1,)))
    assert fleet.wait == Wait(Cause.APPROVAL, ("wave 2",))
    early = orders.approve(State(), 1)
    assert orders.approve(early, 1) == early
    fleet.state = orders.approve(fleet.state, 1)
    assert len(fleet.step()) == 2


def test_nodes_begin_only_in_a_window_but_go_back_at_any_time() -> None:
    """It is named while it is shut."""
    night = Window(start="22:00", end="04:00", zone="Europe/Berlin")
    fleet = Fleet(replace(PLAN, windows=(night,)))
    assert fleet.step() == []
    assert fleet.wait == Wait(Cause.WINDOW, (str(night),))
    begun = fleet.step(13 * HOUR_MS)  # 22:00 in Berlin
    assert len(begun) == 1
    fleet.now_ms += 12 * HOUR_MS
    fleet.state = orders.abort(fleet.state, "enough", reverts=True)
    assert fleet.step() == begun


@pytest.mark.parametrize(
    ("start", "end", "days", "hour_utc", "expected"),
    [
        ("08:00", "10:00", ("wed",), 0, True),  # 09:00 in Berlin
        ("08:00", "09:00", ("wed",), 0, False),  # the end is not in it
        ("08:00", "10:00", ("thu",), 0, False),
        ("22:00", "04:00", ("wed",), 13, True),  # Wednesday 22:00
        ("22:00", "04:00", ("wed",), 18, True),  # Thursday 03:00, begun on Wednesday
        ("22:00", "04:00", ("thu",), 18, False),
        ("22:00", "04:00", ("tue",), -7, True),  # Wednesday 02:00, begun on Tuesday
        ("00:00", "00:00", ("wed",), 3, True),  # the whole day
    ],
)
def test_windows_follow_the_wall_clock(
    start: str, end: str, days: tuple[str, ...], hour_utc: int, expected: bool
) -> None:
    """Days are those on which a window starts, also past midnight."""
    window = Window(days=days, start=start, end=end, zone="Europe/Berlin")
    assert is_open([window], WEDNESDAY_MS + hour_utc * HOUR_MS) is expected


def test_windows_follow_summer_time() -> None:
    """Eight in Berlin is seven in London's winter and six in summer, in universal time."""
    window = Window(start="08:00", end="08:01", zone="Europe/Berlin")
    half_a_year_ms = 180 * 24 * HOUR_MS
    assert is_open([window], WEDNESDAY_MS - HOUR_MS)
    assert is_open([window], WEDNESDAY_MS + half_a_year_ms - 2 * HOUR_MS)
    assert not is_open([window], WEDNESDAY_MS + half_a_year_ms - HOUR_MS)


BEFORE = Metrics(since_ms=0, num_requests=100, p95_ms=200.0, tok_s=40.0)
METRICS = [
    ("error_rate", 0.02, {"num_errors": 3}, {"num_errors": 2}, "error rate 0.030; 0.02 may be"),
    ("p95_ratio", 1.5, {"p95_ms": 301.0}, {"p95_ms": 300.0}, "p95 latency 1.50 times as long as before; 1.5 may be"),
    ("speed_ratio", 0.8, {"tok_s": 31.0}, {"tok_s": 32.0}, "speed 0.78 of what it was before; at least 0.8 must be"),
    ("crashes", 1, {"num_crashes": 2}, {"num_crashes": 1}, "2 crashes; 1 may be"),
]


@pytest.mark.parametrize(("name", "limit", "bad", "good", "reason"), METRICS)
def test_what_nodes_measure_can_end_it(
    name: str, limit: float, bad: dict[str, int], good: dict[str, int], reason: str
) -> None:
    """By kind of machine, against what the same nodes measured before, and only what was measured since."""
    plan = replace(PLAN, abort=replace(Thresholds(), **{name: limit}), stratify_by="machine")
    fleet = Fleet(plan, num_nodes=1)
    fleet.seen["n0"] = replace(observed("n0", machine="pi4"), metrics=BEFORE)
    fleet.says(fleet.step(), "confirmed", metrics=replace(BEFORE, **bad))
    fleet.step(1)
    assert fleet.state.phase is Phase.RUNNING  # that was measured before
    measured = replace(BEFORE, since_ms=fleet.now_ms)
    fleet.says(["n0"], "confirmed", metrics=replace(measured, **good))
    fleet.step()
    assert fleet.state.phase is Phase.RUNNING
    fleet.says(["n0"], "confirmed", metrics=replace(measured, **bad))
    fleet.step()
    assert fleet.state.reasons == (f"{reason} on pi4",)


def test_few_requests_say_nothing() -> None:
    """One error of two requests is no error rate."""
    fleet = Fleet(replace(PLAN, abort=Thresholds(error_rate=0.1)), num_nodes=1)
    fleet.says(fleet.step(), "confirmed", metrics=Metrics(since_ms=1 << 60, num_requests=19, num_errors=19))
    fleet.step()
    assert fleet.state.phase is Phase.RUNNING


def test_nodes_of_another_rollout_and_such_that_have_it_are_left_alone() -> None:
    """The former are waited for, the latter are done."""
    fleet = Fleet(replace(PLAN, soak_ms=0), num_nodes=3)
    fleet.seen["n0"] = replace(fleet.seen["n0"], held_by="r0")
    fleet.seen["n1"] = replace(fleet.seen["n1"], wished=NEW)
    fleet.says(fleet.step(), "confirmed")
    fleet.step()
    assert (list(fleet.state.nodes), fleet.wait) == (["n2"], Wait(Cause.AWAY, ("n0",)))


def test_who_was_given_the_release_stays_in_and_who_is_gone_is_out() -> None:
    """Also when it fits the query no more; a node that the fleet forgot frees its place."""
    fleet = past_canary(replace(PLAN, targets="active=m@1"))
    assert len(fleet.state.nodes) == 3  # the canary has another release active now
    gone = in_flight(fleet)[0]
    del fleet.seen[gone]
    assert len(fleet.step()) == 1
    assert gone not in fleet.state.nodes


def test_each_wave_is_spread_over_the_strata() -> None:
    """In proportion; the small one is not left to the end."""
    strata = {f"a{number}": "a" for number in range(8)} | {f"b{number}": "b" for number in range(4)}
    first = choose(PLAN, strata, [], strata.values(), 3)
    assert sorted(strata[name] for name in first) == ["a", "a", "b"]
    rest = {name: stratum for name, stratum in strata.items() if name not in first}
    then = choose(PLAN, rest, ["a", "a", "b"], rest.values(), 6)
    assert [strata[name] for name in then].count("b") == 2
    assert choose(replace(PLAN, id="r2"), strata, [], strata.values(), 12) != choose(
        PLAN, strata, [], strata.values(), 12
    )


@pytest.mark.parametrize(
    ("waves", "num_nodes", "goals"),
    [
        ((Amount(1), Amount(10, is_percent=True), ALL), 15, [1, 2, 15]),
        ((Amount(5), Amount(10, is_percent=True), ALL), 15, [5, 5, 15]),
        ((Amount(100),), 15, [15]),
        (Growth(1, 1.5), 10, [1, 2, 3, 4, 6, 8, 10, 10]),
        (Growth(3, 10), 1000, [3, 30, 300, 1000]),
    ],
)
def test_waves_grow_to_their_goals(waves: tuple[Amount, ...] | Growth, num_nodes: int, goals: list[int]) -> None:
    """Counts and percentages of all, rounded up, never down again, never more than there are."""
    plan = replace(PLAN, waves=waves)
    assert [goal(plan, wave, num_nodes) for wave in range(len(goals))] == goals
    assert goal(replace(PLAN, waves=Growth(1, 2)), 10_000, num_nodes) == num_nodes


def test_a_wave_without_nodes_of_its_own_is_passed_over() -> None:
    """Ten and twenty percent of five nodes are the same node, for which there is one soak."""
    plan = replace(PLAN, waves=(Amount(10, is_percent=True), Amount(20, is_percent=True), ALL))
    fleet = Fleet(plan, num_nodes=5)
    fleet.says(fleet.step(), "confirmed")
    fleet.step()
    assert len(fleet.step(PLAN.soak_ms)) == 2
    assert fleet.state.wave == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: parse_amount("-1"), "cannot use '-1'"),
        (lambda: parse_amount("101%"), "cannot use '101%'"),
        (lambda: parse_amount("nan%"), "cannot use 'nan%'"),
        (lambda: parse_amount("1.5"), "cannot use '1.5'"),
        (lambda: check_plan(replace(PLAN, targets="site=")), "cannot read the query"),
        (lambda: check_plan(replace(PLAN, waves=())), "cannot use these 0 waves"),
        (lambda: check_plan(replace(PLAN, waves=Growth(1, 1.0))), "cannot grow from 1 by 1.0"),
        (lambda: check_plan(replace(PLAN, confirmed_percent=101)), "cannot ask for 101 %"),
        (lambda: check_plan(replace(PLAN, soak_ms=2, patience_ms=1)), "cannot use soak 2 ms, patience 1 ms"),
        (lambda: check_plan(replace(PLAN, windows=(Window(start="24:00", end="1:00"),))), "write times as in 22:00"),
        (lambda: check_plan(replace(PLAN, windows=(Window(start="1:00", end="2:00", zone="../x"),))), "no time zone"),
        (lambda: check_plan(replace(PLAN, windows=(Window(days=("day",), start="1:00", end="2:00"),))), "days are mon"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(make: Callable[[], object], reason: str) -> None:
    """Before it begins, with what would do."""
    with pytest.raises(UsageError, match=r"^cannot ") as caught:
        make()
    assert reason in str(caught.value)


def test_amounts_and_plans_are_what_was_written() -> None:
    """A plan is stored and read again; what the parts are of is asked later."""
    assert (parse_amount("5"), parse_amount("2.5%")) == (Amount(5), Amount(2.5, is_percent=True))
    assert (Amount(10, is_percent=True).at_most(19), Amount(10, is_percent=True).at_least(19)) == (1, 2)
    plan = replace(PLAN, windows=(Window(start="1:00", end="2:00"),))
    check_plan(plan)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_a_rollout_that_is_over_wishes_nothing() -> None:
    """What others wish of its nodes later is none of its business."""
    over = State(phase=Phase.COMPLETED)
    assert step(PLAN, over, {"n0": observed("n0")}, 0) == (over, [])
    with pytest.raises(ConflictError, match="cannot abort it: it is completed"):
        orders.abort(over, "x", reverts=True)
