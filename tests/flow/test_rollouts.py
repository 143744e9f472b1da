"""Rollouts in the controller, with simulated nodes, on each database."""

from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import event, select

from contract import histogram
from contract.steering import Rollout as Summary
from contract.telemetry import InferRow
from contract.topics import RolloutSummary
from fleet.api.steering import WishChange
from fleet.database.rollouts import Rollout
from fleet.database.tables import audit
from fleet.errors import ConflictError, NotFoundError, UsageError
from fleet.rollout import orders
from fleet.rollout.amount import Amount
from fleet.rollout.plan import HOUR_MS, Plan, Thresholds
from fleet.rollout.state import Cause, Phase, Wait
from fleet.rollouts import Rollouts
from tests.fakes.crew import Crew
from tests.fakes.headquarters import BUSY, Headquarters

NAMES = [f"n{number}" for number in range(6)]
ALL = Amount(100, is_percent=True)
PLAN = Plan(id="", release="m@2", targets="site=here", waves=(Amount(1), ALL), soak_ms=0, max_unavailable=Amount(3))


@pytest.fixture
def headquarters(database_url: str) -> Iterator[Headquarters]:
    """A controller."""
    made = Headquarters(database_url)
    yield made
    made.close()


@pytest.fixture
def crew(headquarters: Headquarters) -> Crew:
    """Six nodes, of which the old model and an adapter are wished."""
    made = Crew(headquarters, NAMES)
    headquarters.rollouts.wish(NAMES, WishChange(model="m@1", adapters=["tone@1", "home@1"]), "ann")
    made.follow()
    return made


def begin(headquarters: Headquarters, plan: Plan = PLAN) -> Rollout:
    """A rollout that an operator begins."""
    return headquarters.rollouts.start(plan, "ann")


def audited(headquarters: Headquarters) -> list[tuple[str, str, str]]:
    """What the audit says of rollouts: who, what, which."""
    query = select(audit.c.actor, audit.c.action, audit.c.subject).where(audit.c.action.startswith("rollout"))
    with headquarters.database.read() as connection:
        return [(actor, action, subject) for actor, action, subject in connection.execute(query)]


def test_a_release_goes_to_all_in_waves(headquarters: Headquarters, crew: Crew) -> None:
    """One first, then not more than may be on their way; the topic and the audit say so."""
    first = begin(headquarters)
    assert (first.plan.id, len(first.state.nodes), first.counts) == ("r1", 1, {"waiting": 5, "working": 1})
    crew.follow()
    headquarters.rollouts.step()
    assert headquarters.rollouts.get("r1").counts == {"waiting": 2, "confirmed": 1, "working": 3}
    crew.settle()
    done = headquarters.rollouts.get("r1")
    assert (done.state.phase, done.counts) == (Phase.COMPLETED, {"waiting": 0, "confirmed": 6})
    assert [crew.models(name) for name in NAMES] == [["m@1", "m@2"]] * 6
    assert audited(headquarters) == [
        ("ann", "rollout start", "r1"), ("controller", "rollout completed", "r1"),
    ]  # fmt: skip
    said = [
        msgspec.json.decode(text, type=Summary) for topic, text in headquarters.posts if topic == RolloutSummary("r1")
    ]
    assert [(one.state, one.wave) for one in (said[0], said[-1])] == [("running", 1), ("completed", 2)]


def test_an_adapter_takes_the_place_of_the_one_of_its_name(headquarters: Headquarters, crew: Crew) -> None:
    """The model and the other adapters stay, and so does the order."""
    begin(headquarters, replace(PLAN, release="tone@2", kind="adapter"))
    crew.settle()
    assert headquarters.rollouts.get("r1").state.phase is Phase.COMPLETED
    assert {tuple(headquarters.documents(name)[-1].adapters) for name in NAMES} == {("tone@2", "home@1")}
    assert {headquarters.documents(name)[-1].model for name in NAMES} == {"m@1"}


def test_a_bad_release_is_taken_back(headquarters: Headquarters, crew: Crew) -> None:
    """The gates of the second wave turn it away: nobody else gets it, and who has it goes back to what it had."""
    begin(headquarters, replace(PLAN, abort=Thresholds(rejected=Amount(1))))
    [canary] = crew.follow()
    crew.bad, crew.rejecting = "m@2", set(NAMES) - {canary}
    crew.settle()
    ended = headquarters.rollouts.get("r1")
    assert (ended.state.phase, ended.counts) == (Phase.ABORTED, {"waiting": 2, "back": 4})
    assert ended.state.reasons == ("3 of 4 nodes were rejected by their gate; 1 may",)
    models = [crew.models(name) for name in NAMES]
    assert sorted(map(len, models)) == [1, 1, 3, 3, 3, 3]
    assert {wished[-1] for wished in models} == {"m@1"}
    assert [what for _, what, _ in audited(headquarters)][1:] == ["rollout calling back", "rollout aborted"]
    with pytest.raises(ConflictError, match="cannot abort it: it is aborted"):
        headquarters.rollouts.order("r1", lambda state: orders.abort(state, "x", reverts=True), "ann", "rollout abort")


def test_what_a_rollout_holds_nobody_else_changes(headquarters: Headquarters, crew: Crew) -> None:
    """Until it is over; settings are not the rollout's."""
    [canary] = begin(headquarters).state.nodes
    for change in (WishChange(model="m@3"), WishChange(adapters=[])):
        with pytest.raises(ConflictError, match="rollout r1 holds it until it is over; `fleet rollout abort r1`"):
            headquarters.rollouts.wish(NAMES, change, "bob")
    headquarters.rollouts.wish([canary], WishChange(settings={"log.level": "debug"}), "bob")
    assert headquarters.documents(canary)[-1].model == "m@2"
    headquarters.rollouts.order(
        "r1", lambda state: orders.abort(state, "no", reverts=True), "ann", "rollout abort", "no"
    )
    crew.settle()
    headquarters.rollouts.wish([canary], WishChange(model="m@3"), "bob")
    assert headquarters.documents(canary)[-1].model == "m@3"


def test_of_two_rollouts_with_the_same_nodes_the_older_goes_first(headquarters: Headquarters, crew: Crew) -> None:
    """A node has one target at a time, and neither waits for the other for ever."""
    begin(headquarters)
    second = begin(headquarters, replace(PLAN, release="home@2", kind="adapter", waves=(ALL,), max_unavailable=ALL))
    assert (second.state.nodes, second.state.wait) == ({}, Wait(Cause.AWAY, tuple(NAMES)))
    crew.settle()
    assert headquarters.rollouts.get("r1").state.phase is Phase.COMPLETED
    crew.settle()
    phases = [headquarters.rollouts.get(name).state.phase for name in ("r1", "r2")]
    assert phases == [Phase.COMPLETED, Phase.COMPLETED]
    last = [headquarters.documents(name)[-1] for name in NAMES]
    assert {(one.model, *one.adapters) for one in last} == {("m@2", "tone@1", "home@2")}
    with pytest.raises(NotFoundError, match="cannot find rollout r0"):
        headquarters.rollouts.get("7")


def test_the_same_rollout_does_not_begin_twice(headquarters: Headquarters, crew: Crew) -> None:
    """Whoever sends it again is told which one it is; a plan that cannot be followed does not begin at all."""
    crew.away = set(NAMES)
    begin(headquarters)
    with pytest.raises(ConflictError, match="r1 does that already"):
        begin(headquarters)
    with pytest.raises(UsageError, match="cannot spread waves by 'colour'"):
        begin(headquarters, replace(PLAN, stratify_by="colour"))
    assert [one.plan.id for one in headquarters.rollouts.newest(9)] == ["r1"]


def test_a_release_that_is_yanked_stops(headquarters: Headquarters, crew: Crew) -> None:
    """The next node cannot be wished it; who has it goes back, and the rollout says why."""
    [canary] = begin(headquarters).state.nodes
    crew.follow()
    headquarters.approved.discard(("m@2", "model"))
    headquarters.rollouts.step()
    crew.settle()
    stopped = headquarters.rollouts.get("r1").state
    assert stopped.phase is Phase.ABORTED
    assert stopped.reasons[0].startswith("cannot wish the model m@2 of n")
    assert [len(crew.models(name)) for name in NAMES if name != canary] == [1] * 5
    assert crew.models(canary) == ["m@1", "m@2", "m@1"]
    with pytest.raises(ConflictError, match="cannot roll out m@2: it is not approved"):
        begin(headquarters)
    with pytest.raises(ConflictError, match="cannot roll out tone@2 as model: it is adapter"):
        begin(headquarters, replace(PLAN, release="tone@2"))


def test_only_rows_of_nodes_that_changed_are_written(headquarters: Headquarters, crew: Crew) -> None:
    """Of six nodes one has reported: one row."""
    begin(headquarters, replace(PLAN, waves=(ALL,), max_unavailable=ALL))
    crew.away = set(NAMES[1:])
    crew.follow()
    written: list[int] = []

    def count(_c: object, _k: object, statement: str, parameters: object, _x: object, is_many: bool) -> None:
        if "INTO rollout_nodes" in statement:
            written.append(len(parameters) if is_many and isinstance(parameters, list) else 1)

    event.listen(headquarters.database.engine, "before_cursor_execute", count)
    headquarters.rollouts.step()
    assert written == [1]


def test_a_controller_that_was_away_blames_nobody(headquarters: Headquarters, crew: Crew, database_url: str) -> None:
    """Nodes in flight were not watched, so they are not overdue; the next controller goes on where the first was."""
    crew.away = set(NAMES)
    begin(headquarters)
    headquarters.now_ms += 30 * HOUR_MS
    other = Headquarters(database_url, headquarters.now_ms)
    other.approved |= headquarters.approved
    crew.headquarters, crew.away = other, set()
    other.rollouts.step()
    assert other.rollouts.get("r1").state.phase is Phase.RUNNING
    crew.settle()
    assert other.rollouts.get("r1").state.phase is Phase.COMPLETED
    other.close()


def answered(**fields: object) -> InferRow:
    """What a node counted with the new release."""
    return msgspec.structs.replace(BUSY, model="m@2", **fields)


def latency(ms: float) -> str:
    """The histogram of a hundred answers."""
    counted = histogram.Histogram()
    for _ in range(100):
        counted.add(ms)
    return histogram.encode(counted)


@pytest.mark.parametrize(
    ("limits", "before", "after", "reason"),
    [
        (Thresholds(error_rate=0.1), {}, {"ok": 80, "failed": 15, "unfit": 5}, "error rate 0.216; 0.1 may be"),
        (Thresholds(p95_ratio=2), {"first_token_ms": latency(100)}, {"first_token_ms": latency(300)}, "p95 latency 3"),
        (Thresholds(speed_ratio=0.5), {"decode_s": 10.0, "completion_tokens": 400},
         {"decode_s": 10.0, "completion_tokens": 100}, "speed 0.25 of what it was before"),
    ],
)  # fmt: skip
def test_what_nodes_measure_stops_it(
    headquarters: Headquarters, crew: Crew, limits: Thresholds, before: dict[str, object], after: dict[str, object],
    reason: str,
) -> None:  # fmt: skip
    """From stored telemetry: what they answered before with the old release, and since with the new one."""
    for name in NAMES:
        headquarters.infer(name, msgspec.structs.replace(BUSY, model="m@1", **before))
    [canary] = begin(headquarters, replace(PLAN, soak_ms=HOUR_MS, abort=limits)).state.nodes
    crew.follow()
    headquarters.rollouts.step()
    headquarters.now_ms += 1000
    headquarters.infer(canary, msgspec.structs.replace(BUSY, model="m@1", failed=900))  # the old one's do not count
    headquarters.rollouts.step()
    assert headquarters.rollouts.get("r1").state.phase is Phase.RUNNING
    headquarters.infer(canary, answered(**after))
    headquarters.rollouts.step()
    stopped = headquarters.rollouts.get("r1").state
    assert stopped.phase is Phase.CALLING_BACK
    assert stopped.reasons[0].startswith(reason)


def test_engines_that_die_stop_it(headquarters: Headquarters, crew: Crew) -> None:
    """Since the node has the release; who was started anew reads the same in the database."""
    [canary] = begin(headquarters, replace(PLAN, soak_ms=HOUR_MS, abort=Thresholds(crashes=1))).state.nodes
    headquarters.event(canary, "engine_died", {"death": "crash"})
    crew.follow()
    headquarters.now_ms += 1000
    headquarters.rollouts.step()
    headquarters.now_ms += 1000
    headquarters.event(canary, "engine_died", {"death": "crash"})
    headquarters.rollouts.step()
    assert headquarters.rollouts.get("r1").state.phase is Phase.RUNNING
    headquarters.event(canary, "engine_died", {"death": "crash"})
    anew = Rollouts(
        headquarters.database, headquarters.inventory, headquarters.steering, headquarters._post, headquarters.clock,
        headquarters.approves,
    )  # fmt: skip
    anew.step()
    assert anew.get("r1").state.reasons == ("2 crashes; 1 may be",)


def test_pauses_are_acknowledged_and_waves_approved(headquarters: Headquarters, crew: Crew) -> None:
    """Nobody begins in between; the summary of the fleet says what it waits for."""
    rollouts = headquarters.rollouts
    begin(headquarters, replace(PLAN, approve_before=(1,)))
    crew.settle()
    held = rollouts.get("r1").state
    assert held.wait is not None
    assert (held.wait.cause, len(held.nodes)) == (Cause.APPROVAL, 1)
    assert headquarters.inventory.summary().rollouts[0].waits == "approval: wave 2"
    rollouts.order("r1", lambda state: orders.pause(state, "lunch"), "ann", "rollout pause", "lunch")
    rollouts.order("r1", lambda state: orders.approve(state, 1), "ann", "rollout approve")
    crew.settle()
    assert len(rollouts.get("r1").state.nodes) == 1
    rollouts.order("r1", lambda state: orders.resume(state, 1), "ann", "rollout resume")
    crew.settle()
    assert rollouts.get("r1").state.phase is Phase.COMPLETED
    detail = headquarters.inventory.detail("n0")
    assert detail is not None
    assert detail.rollout is None


def test_a_plan_shows_who_would_come_when(headquarters: Headquarters, crew: Crew) -> None:
    """And that is who comes; nothing is stored or wished."""
    num_posts = len(headquarters.posts)
    plan, seen, waves = headquarters.rollouts.forecast(PLAN)
    assert (plan.id, len(headquarters.posts), headquarters.rollouts.newest(9)) == ("r1", num_posts, [])
    assert (sorted(name for wave in waves for name in wave), len(waves[0]), len(seen)) == (NAMES, 1, 6)
    assert list(begin(headquarters).state.nodes) == waves[0]
