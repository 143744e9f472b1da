"""A rollout's nodes at one moment, sorted by what can be done with them. Pure."""

from functools import lru_cache

from msgspec import Struct

from fleet.matching import fits
from fleet.query import Query, parse
from fleet.rollout.judgement import Seen, is_overdue
from fleet.rollout.plan import Plan
from fleet.rollout.state import Node, Outcome, State


class View(Struct, frozen=True, kw_only=True):
    """Names of nodes, sorted."""

    waiting: tuple[str, ...]  # fit, and were not given the release
    ready: tuple[str, ...]  # of those, which could be
    working: tuple[str, ...]  # in flight, and there
    laggards: tuple[str, ...]  # in flight, and away or overdue: they hold their place, but no wave waits for them
    num_members: int  # without those that refused: another takes their place
    num_given: int  # likewise
    num_free: int  # how many more may become unavailable


def view(plan: Plan, state: State, seen: Seen, now_ms: int) -> View:
    """What can be done with whom."""
    query = _tree(plan.targets)
    waiting = tuple(
        name
        for name, one in sorted(seen.items())
        if name not in state.nodes and one.wished != plan.release and fits(query, one.record, now_ms)
    )
    ready = tuple(
        n for n in waiting if seen[n].is_here and seen[n].held_by is None and seen[n].record.state != "draining"
    )
    in_flight = [(name, node) for name, node in sorted(state.nodes.items()) if node.outcome is None]
    laggards = tuple(name for name, node in in_flight if node.here_ms is None or is_overdue(plan, node, now_ms))
    late = set(laggards)
    num_given = sum(not _made_room(node) for node in state.nodes.values())
    num_all = len(state.nodes) + len(waiting)
    return View(
        waiting=waiting,
        ready=ready,
        working=tuple(name for name, _ in in_flight if name not in late),
        laggards=laggards,
        num_members=num_given + len(waiting),
        num_given=num_given,
        num_free=max(0, max(1, plan.max_unavailable.at_most(num_all)) - len(in_flight)),
    )


def _made_room(node: Node) -> bool:
    return node.outcome is Outcome.REFUSED


@lru_cache
def _tree(query: str) -> Query:
    return parse(query)
