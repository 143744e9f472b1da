"""One step of a rollout: from what is stored and what is seen to what is to be stored, and what to wish of which node.

The caller stores the new state, then makes the wishes. It gives all nodes that it knows each time, and does nothing
between two steps but take orders (`orders`); when it dies, the next step wishes again what was not wished yet.

What always holds:

- A node has one target at a time: the release, and after an abort what it had before. A wish is the difference between
  its target and what its newest document names, so the same step twice wishes the same, or nothing.
- No more nodes are given a target than may be unavailable. One that goes away in flight keeps its place: a release that
  breaks machines looks like machines that went away, and then this is what stops it.
- After a threshold of `abort` was crossed, no node is given the release any more.
- Only a report about a node's newest document counts, and confirmed is only who also has the release active.
- It is over, or its `wait` names for what it waits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from fleet.rollout import waves
from fleet.rollout.judgement import Seen, crossed
from fleet.rollout.observation import Observation
from fleet.rollout.orders import called_back, paused
from fleet.rollout.plan import Plan
from fleet.rollout.state import Cause, Node, Outcome, Phase, State, Wait
from fleet.rollout.view import View, view
from fleet.rollout.window import is_open

_OUTCOMES = {
    "refused": Outcome.REFUSED,
    "rolled_back": Outcome.FAILED,
    "failed": Outcome.FAILED,
}


class Wish(Struct, frozen=True):
    """What to wish of a node. None is its own default."""

    node: str
    release: str | None


def step(plan: Plan, state: State, seen: Seen, now_ms: int) -> tuple[State, list[Wish]]:
    """What to store, then what to do. The same again with what was stored gives the same."""
    if state.is_over:
        return state, []
    while (moved := _moved(plan, state, seen, now_ms)) != state:
        state = moved
    wishes = [Wish(name, node.target) for name, node in sorted(state.nodes.items()) if seen[name].wished != node.target]
    return state, wishes


def unseen(state: State) -> State:
    """The state after a time in which nobody watched: that nodes in flight said nothing in it is not their fault."""
    here = {name: replace(node, here_ms=None) for name, node in state.nodes.items() if node.outcome is None}
    return replace(state, nodes=state.nodes | here) if here else state


def _heard(state: State, seen: Seen, now_ms: int) -> State:
    """What nodes have said. Those that the controller does not know any more are no part of it."""
    return replace(
        state, nodes={name: _said(node, seen[name], now_ms) for name, node in state.nodes.items() if name in seen}
    )


def _said(node: Node, one: Observation, now_ms: int) -> Node:
    here_ms = (now_ms if node.here_ms is None else node.here_ms) if one.is_here else None
    outcome = _outcome(one) if one.is_current and one.wished == node.target else None
    if outcome is None or outcome is node.outcome:  # it may look again, after a start: what it had, it has
        return node if here_ms == node.here_ms else replace(node, here_ms=here_ms)
    error = node.error if outcome is Outcome.CONFIRMED else one.error
    return replace(node, here_ms=here_ms, outcome=outcome, ended_ms=now_ms, error=error)


def _outcome(one: Observation) -> Outcome | None:
    phase = one.record.phase or ""
    if phase == "confirmed":
        return Outcome.CONFIRMED if one.wished in (None, one.active) else None
    if phase in ("refused", "rolled_back") and one.wished is not None and one.wished == one.active:
        return Outcome.CONFIRMED  # a node says the worst of all that was wished, and this was not it
    if phase == "refused" and one.is_gated:
        return Outcome.REJECTED
    return _OUTCOMES.get(phase)


def _judged(plan: Plan, state: State, seen: Seen, now_ms: int) -> State:
    """Aborts it when it is too bad."""
    if state.phase is Phase.CALLING_BACK:
        return state
    reasons = crossed(plan, plan.abort, state.nodes, seen, now_ms)
    return called_back(state, tuple(reasons), reverts=plan.on_abort == "revert") if reasons else state


def _moved(plan: Plan, state: State, seen: Seen, now_ms: int) -> State:
    """The state after the next thing that can be done, or the same."""
    if state.is_over:
        return state
    state = _judged(plan, _heard(state, seen, now_ms), seen, now_ms)
    match state.phase:
        case Phase.RUNNING:
            return _rolled(plan, state, seen, now_ms)
        case Phase.PAUSED:
            reason = state.pause.reason if state.pause else ""
            return replace(state, wait=Wait(Cause.RESUME, (reason,)))
        case Phase.CALLING_BACK:
            return _back(plan, state, seen, now_ms)
    return state


def _rolled(plan: Plan, state: State, seen: Seen, now_ms: int) -> State:
    """Gives nodes the release, or ends the wave."""
    look = view(plan, state, seen, now_ms)
    if state.wave in plan.approve_before and state.wave not in state.approved:
        return _waiting(state, Cause.APPROVAL, [f"wave {state.wave + 1}"])
    num_missing = waves.goal(plan, state.wave, look.num_members) - look.num_given
    is_empty = all(node.wave != state.wave for node in state.nodes.values())
    if is_empty and num_missing <= 0 and look.waiting and not waves.is_last(plan, state.wave, look.num_members):
        return _next_wave(state)  # percentages of a small fleet: there is nothing to soak
    num_next = min(num_missing, look.num_free)
    if num_next > 0 and look.ready and is_open(plan.windows, now_ms):
        return _given(plan, state, look, seen, now_ms, num_next)
    if look.working:
        return _waiting(state, Cause.NODES, look.working)
    if num_missing > 0 and look.ready:
        if look.num_free == 0:
            return _waiting(state, Cause.AWAY, look.laggards)
        return _waiting(state, Cause.WINDOW, [str(window) for window in plan.windows])
    if state.settled_ms is None:
        return replace(state, settled_ms=now_ms)
    if now_ms - state.settled_ms < plan.soak_ms:
        return _waiting(state, Cause.SOAK, [f"wave {state.wave + 1}"])
    return _soaked(plan, state, look, seen, now_ms)


def _given(plan: Plan, state: State, look: View, seen: Seen, now_ms: int, num: int) -> State:
    """Gives `num` more nodes the release."""
    strata = {name: waves.stratum(plan, seen[name].record, now_ms) for name in look.waiting}
    ready = {name: strata[name] for name in look.ready}
    before = [node.stratum for node in state.nodes.values()]
    given = {
        name: Node(
            wave=state.wave,
            target=plan.release,
            before=seen[name].wished,
            stratum=strata[name],
            here_ms=now_ms,
            baseline=seen[name].metrics,
        )
        for name in waves.choose(plan, ready, before, strata.values(), num)
    }
    return replace(state, nodes=state.nodes | given, settled_ms=None)


def _soaked(plan: Plan, state: State, look: View, seen: Seen, now_ms: int) -> State:
    """The wave's nodes had their time: is it good enough, and what comes then?"""
    settled_ms = now_ms if state.settled_ms is None else state.settled_ms
    has_patience = now_ms - settled_ms < plan.patience_ms
    nodes = {name: node for name, node in state.nodes.items() if node.wave == state.wave}
    late = [name for name in look.laggards if name in nodes]
    if state.excused_wave != state.wave:
        num_lacking, num_able = _lacking(plan, nodes)
        reasons = crossed(plan, plan.success, nodes, seen, now_ms)
        if num_lacking > (len(late) if has_patience else 0):
            reasons.append(f"{num_lacking} more of {num_able} nodes must have confirmed")
        if reasons:
            return paused(state, f"wave {state.wave + 1}: {'; '.join(reasons)}", is_own=True)
        if num_lacking > 0:
            return _waiting(state, Cause.AWAY, late)
    is_full = look.num_given >= waves.goal(plan, state.wave, look.num_members)
    if is_full and look.waiting and not waves.is_last(plan, state.wave, look.num_members):
        return _next_wave(state)
    absent = sorted({*look.laggards, *(() if is_full else look.waiting)})
    if absent and has_patience:
        return _waiting(state, Cause.AWAY, absent)
    if not state.nodes and has_patience:
        return _waiting(state, Cause.MEMBERS, [plan.targets])
    if not any(node.outcome is Outcome.CONFIRMED for node in state.nodes.values()):
        return called_back(state, ("no node has confirmed it",), reverts=False)
    return replace(state, phase=Phase.COMPLETED, left=tuple(absent), wait=None)


def _lacking(plan: Plan, nodes: Mapping[str, Node]) -> tuple[int, int]:
    """How many more nodes of a wave must have confirmed, and how many it has that could."""
    outcomes = Counter(node.outcome for node in nodes.values())
    num_able = len(nodes) - outcomes[Outcome.REFUSED]
    return math.ceil(num_able * plan.confirmed_percent / 100) - outcomes[Outcome.CONFIRMED], num_able


def _next_wave(state: State) -> State:
    return replace(state, wave=state.wave + 1, settled_ms=None, wait=None)


def _back(plan: Plan, state: State, seen: Seen, now_ms: int) -> State:
    """Lets nodes go back: at once those in flight, which hold places already, the others as places become free."""
    look = view(plan, state, seen, now_ms)
    due = [
        (node.outcome is not None, not seen[name].is_here, name)
        for name, node in state.nodes.items()
        if not node.is_back and (state.reverts or node.outcome is not Outcome.CONFIRMED)
    ]
    names = [name for has_ended, _, name in sorted(due) if not has_ended]
    names += [name for has_ended, _, name in sorted(due) if has_ended][: look.num_free]
    if names:
        back = {name: _turned(state.nodes[name], seen[name], now_ms) for name in names}
        return replace(state, nodes=state.nodes | back, settled_ms=None)
    if look.working:
        return _waiting(state, Cause.NODES, look.working)
    if state.settled_ms is None:
        return replace(state, settled_ms=now_ms)
    if look.laggards and now_ms - state.settled_ms < plan.patience_ms:
        return _waiting(state, Cause.AWAY, look.laggards)
    left = tuple(sorted({*look.laggards, *(name for _, _, name in due)}))
    return replace(state, phase=Phase.ABORTED, left=left, wait=None)


def _turned(node: Node, one: Observation, now_ms: int) -> Node:
    here_ms = now_ms if one.is_here else None
    return replace(node, target=node.before, is_back=True, outcome=None, ended_ms=None, here_ms=here_ms)


def _waiting(state: State, cause: Cause, names: Iterable[str]) -> State:
    return replace(state, wait=Wait(cause, tuple(names)))
