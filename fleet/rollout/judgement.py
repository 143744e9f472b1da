"""Whether nodes that were given a release are well enough. Pure."""

from collections.abc import Iterator, Mapping
from statistics import median

from fleet.rollout.amount import Amount
from fleet.rollout.observation import Metrics, Observation
from fleet.rollout.plan import Plan, Thresholds
from fleet.rollout.state import Node, Outcome

Seen = Mapping[str, Observation]


def is_overdue(plan: Plan, node: Node, now_ms: int) -> bool:
    """Whether a node should have come to an end: it has been there all the time, and says nothing of one."""
    return node.outcome is None and node.here_ms is not None and now_ms - node.here_ms >= plan.overdue_ms


def crossed(plan: Plan, thresholds: Thresholds, nodes: Mapping[str, Node], seen: Seen, now_ms: int) -> list[str]:
    """What is not well with `nodes`, a line for each threshold that is crossed."""
    outcomes = [node.outcome for node in nodes.values()]
    num_overdue = sum(is_overdue(plan, node, now_ms) for node in nodes.values())
    counts: list[tuple[str, Amount | None, int]] = [
        ("failed", thresholds.failed, outcomes.count(Outcome.FAILED) + num_overdue),
        ("were rejected by their gate", thresholds.rejected, outcomes.count(Outcome.REJECTED)),
        ("refused", thresholds.refused, outcomes.count(Outcome.REFUSED)),
    ]
    lines = [
        f"{num} of {len(nodes)} nodes {what}; {amount.at_most(len(nodes))} may"
        for what, amount, num in counts
        if amount is not None and num > amount.at_most(len(nodes))
    ]
    for name, measured in sorted(_strata(nodes, seen).items()):
        where = f" on {name}" if name else ""
        lines += [f"{line}{where}" for line in _unwell(thresholds, measured)]
    return lines


Measured = list[tuple[Metrics, Metrics | None]]  # after, before


def _strata(nodes: Mapping[str, Node], seen: Seen) -> dict[str, Measured]:
    """What was measured since nodes have the release, by stratum."""
    found: dict[str, Measured] = {}
    for name, node in nodes.items():
        metrics = seen[name].metrics
        if node.outcome is Outcome.CONFIRMED and metrics and metrics.since_ms >= (node.ended_ms or 0):
            found.setdefault(node.stratum, []).append((metrics, node.baseline))
    return found


def _unwell(thresholds: Thresholds, measured: Measured) -> Iterator[str]:
    num_crashes = sum(after.num_crashes for after, _ in measured)
    if thresholds.crashes is not None and num_crashes > thresholds.crashes:
        yield f"{num_crashes} crashes; {thresholds.crashes} may be"
    num_requests = sum(after.num_requests for after, _ in measured)
    if num_requests < max(1, thresholds.min_requests):
        return
    error_rate = sum(after.num_errors for after, _ in measured) / num_requests
    if thresholds.error_rate is not None and error_rate > thresholds.error_rate:
        yield f"error rate {error_rate:.3f}; {thresholds.error_rate:g} may be"
    slower = [a.p95_ms / b.p95_ms for a, b in measured if b and b.p95_ms and a.p95_ms is not None]
    if thresholds.p95_ratio is not None and slower and median(slower) > thresholds.p95_ratio:
        yield f"p95 latency {median(slower):.2f} times as long as before; {thresholds.p95_ratio:g} may be"
    faster = [a.tok_s / b.tok_s for a, b in measured if b and b.tok_s and a.tok_s is not None]
    if thresholds.speed_ratio is not None and faster and median(faster) < thresholds.speed_ratio:
        yield f"speed {median(faster):.2f} of what it was before; at least {thresholds.speed_ratio:g} must be"
