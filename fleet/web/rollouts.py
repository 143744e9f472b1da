"""Rollouts over HTTP: planned, begun, watched and told what to do."""

from functools import partial

from fleet.api.rollouts import (
    Approved,
    Forecast,
    NewAbort,
    NewPause,
    NewRollout,
    NodeView,
    Resumed,
    RolloutFilter,
    RolloutView,
)
from fleet.database.rollouts import Rollout
from fleet.inventory import Inventory
from fleet.query import parse, text_of
from fleet.rollout import orders
from fleet.rollout.plan import Growth, Plan
from fleet.rollout.state import Cause, Node, State
from fleet.rollouts import Change, Rollouts
from fleet.web.endpoint import Call, Endpoint


def endpoints(rollouts: Rollouts, inventory: Inventory) -> list[Endpoint]:
    """What viewers see of rollouts, and what operators do with them."""

    def plan_of(wanted: NewRollout) -> Plan:
        targets = text_of(parse(wanted.query, inventory.labels()))
        return wanted.plan(wanted.release, rollouts.kind_of(wanted.release), targets)

    def plan(call: Call) -> Forecast:
        plan, seen, waves = rollouts.forecast(plan_of(call.body))
        names = [name for wave in waves for name in wave]
        fitting = [record.node for record in inventory.find(parse(plan.targets))]
        return Forecast(
            plan=plan,
            waves=waves,
            num_there=sum(name in seen and seen[name].wished == plan.release for name in fitting),
            away=sorted(name for name in names if not seen[name].is_here),
            held={name: holder for name in names if (holder := seen[name].held_by)},
        )

    def start(call: Call) -> RolloutView:
        return view_of(rollouts.start(plan_of(call.body), call.caller.name))

    def nodes(call: Call) -> list[NodeView]:
        state = rollouts.get(call.path["rollout"]).state
        return [_node_view(inventory, name, state.nodes[name]) for name in sorted(state.nodes)]

    def order(call: Call, change: Change, what: str, detail: str) -> RolloutView:
        return view_of(rollouts.order(call.path["rollout"], change, call.caller.name, f"rollout {what}", detail))

    def pause(call: Call) -> RolloutView:
        wanted: NewPause = call.body
        return order(call, partial(orders.pause, reason=wanted.reason), "pause", wanted.reason)

    def resume(call: Call) -> RolloutView:
        wanted: Resumed = call.body
        return order(call, partial(orders.resume, number=wanted.pause), "resume", f"pause {wanted.pause}")

    def approve(call: Call) -> RolloutView:
        wanted: Approved = call.body
        return order(call, partial(orders.approve, wave=wanted.wave - 1), "approve", f"wave {wanted.wave}")

    def abort(call: Call) -> RolloutView:
        wanted: NewAbort = call.body
        change = partial(orders.abort, reason=wanted.reason, reverts=wanted.revert)
        return order(call, change, "abort", wanted.reason)

    return [
        Endpoint(
            method="POST", path="/v1/rollouts/plan", summary="Who would get a release in which wave; does nothing",
            least="viewer", work=plan, body=NewRollout, answer=Forecast,
        ),
        Endpoint(
            method="POST", path="/v1/rollouts", summary="Begin a rollout", least="operator", work=start,
            body=NewRollout, answer=RolloutView,
        ),
        Endpoint(
            method="GET", path="/v1/rollouts", summary="Rollouts, those begun last first", least="viewer",
            work=lambda call: [view_of(one) for one in rollouts.newest(call.query.limit)], query=RolloutFilter,
            answer=list[RolloutView],
        ),
        Endpoint(
            method="GET", path="/v1/rollouts/{rollout}", summary="How far a rollout is, and what it waits for",
            least="viewer", work=lambda call: view_of(rollouts.get(call.path["rollout"])), answer=RolloutView,
        ),
        Endpoint(
            method="GET", path="/v1/rollouts/{rollout}/nodes", summary="How far each of its nodes is", least="viewer",
            work=nodes, answer=list[NodeView],
        ),
        Endpoint(
            method="POST", path="/v1/rollouts/{rollout}/pause", summary="Let no further node begin", least="operator",
            work=pause, body=NewPause, answer=RolloutView,
        ),
        Endpoint(
            method="POST", path="/v1/rollouts/{rollout}/resume", summary="Go on after a pause whose reason was read",
            least="operator", work=resume, body=Resumed, answer=RolloutView,
        ),
        Endpoint(
            method="POST", path="/v1/rollouts/{rollout}/approve", summary="Let a wave begin that waits for it",
            least="operator", work=approve, body=Approved, answer=RolloutView,
        ),
        Endpoint(
            method="POST", path="/v1/rollouts/{rollout}/abort", summary="End a rollout; nodes go back",
            least="operator", work=abort, body=NewAbort, answer=RolloutView,
        ),
    ]  # fmt: skip


def view_of(rollout: Rollout) -> RolloutView:
    """A rollout as people see it."""
    plan, state = rollout.plan, rollout.state
    return RolloutView(
        id=plan.id,
        phase=state.phase.value,
        wave=state.wave + 1,
        num_waves=None if isinstance(plan.waves, Growth) else len(plan.waves),
        counts=rollout.counts,
        wait=state.wait,
        until_ms=_until_ms(plan, state),
        pause=state.pause,
        reasons=state.reasons,
        left=state.left,
        actor=rollout.actor,
        created_ms=rollout.created_ms,
        ended_ms=rollout.ended_ms,
        plan=plan,
    )


def _until_ms(plan: Plan, state: State) -> int | None:
    is_soak = state.wait is not None and state.wait.cause is Cause.SOAK
    return state.settled_ms + plan.soak_ms if is_soak and state.settled_ms is not None else None


def _node_view(inventory: Inventory, name: str, node: Node) -> NodeView:
    known, said = inventory.record(name), inventory.reported(name)
    return NodeView(
        node=name, wave=node.wave + 1, target=node.target, is_back=node.is_back,
        outcome=node.outcome.value if node.outcome else None, state=known.state if known else "unknown",
        phase=said.phase if said else None, progress=said.progress if said else 0.0,
        error=node.error,
    )  # fmt: skip
