"""Who would get a release in which wave, if nothing goes wrong and nobody comes or goes. Pure."""

from fleet.rollout import waves
from fleet.rollout.judgement import Seen
from fleet.rollout.plan import Plan
from fleet.rollout.state import State
from fleet.rollout.view import view


def forecast(plan: Plan, seen: Seen, now_ms: int) -> list[list[str]]:
    """The names of each wave's nodes; empty waves are left out, and so are nodes that no wave reaches."""
    waiting = view(plan, State(), seen, now_ms).waiting
    left = {name: waves.stratum(plan, seen[name].record, now_ms) for name in waiting}
    given: list[str] = []
    found: list[list[str]] = []
    number = 0
    while left:
        missing = waves.goal(plan, number, len(waiting)) - len(given)
        chosen = waves.choose(plan, left, given, left.values(), missing)
        given += [left.pop(name) for name in chosen]
        if chosen:
            found.append(sorted(chosen))
        if waves.is_last(plan, number, len(waiting)):
            break
        number += 1
    return found
