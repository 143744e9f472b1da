"""How many nodes a wave has, and which. Pure, and the same each time for the same nodes."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from fleet.fields import Record, values_of
from fleet.rollout.plan import Growth, Plan


def goal(plan: Plan, wave: int, num_members: int) -> int:
    """How many nodes have been given the release when a wave is full, those of the waves before it included."""
    if isinstance(plan.waves, Growth):
        steps = min(wave, math.ceil(math.log(num_members + 1, plan.waves.factor)))  # more would only overflow
        return min(num_members, math.ceil(plan.waves.first * plan.waves.factor**steps))
    return min(num_members, max(amount.at_least(num_members) for amount in plan.waves[: wave + 1]))


def is_last(plan: Plan, wave: int, num_members: int) -> bool:
    """Whether there is no wave after this one."""
    if isinstance(plan.waves, Growth):
        return goal(plan, wave, num_members) >= num_members
    return wave + 1 >= len(plan.waves)


def stratum(plan: Plan, record: Record, now_ms: int) -> str:
    """To which part of the fleet a node belongs; all of one part when nothing tells them apart."""
    values = values_of(plan.stratify_by, record, now_ms) if plan.stratify_by else ()
    return str(values[0]) if values else ""


def choose(plan: Plan, strata: Mapping[str, str], before: Iterable[str], waiting: Iterable[str], num: int) -> list[str]:
    """Which `num` nodes come next: in turn from the stratum of which the smallest part has been given the release.

    Args:
        plan: its id decides the order within a stratum, so that not the same nodes are first in each rollout.
        strata: the stratum of each node that could come next.
        before: the strata of those that were given the release.
        waiting: the strata of those that were not, also those that are away.
        num: how many at most.
    """
    queues: dict[str, list[str]] = {}
    for node in sorted(strata, key=lambda node: hashlib.sha256(f"{plan.id} {node}".encode()).digest(), reverse=True):
        queues.setdefault(strata[node], []).append(node)
    given, sizes = Counter(before), Counter(waiting)
    sizes.update(given)
    chosen: list[str] = []
    while queues and len(chosen) < num:
        name = min(queues, key=lambda name: ((given[name] + 1) / sizes[name], name))
        chosen.append(queues[name].pop())
        given[name] += 1
        if not queues[name]:
            del queues[name]
    return chosen
