"""What a rollout sees of the nodes: from their records, their reports and their newest documents."""

from collections.abc import Mapping

from contract.steering import Desired
from fleet.inventory import Inventory
from fleet.nodes import Node
from fleet.rollout.observation import Metrics, Observation
from fleet.rollout.plan import Plan


def observe(
    inventory: Inventory, plan: Plan, holds: Mapping[str, str], metrics: Mapping[str, Metrics]
) -> dict[str, Observation]:
    """Every node that was ever heard.

    Args:
        inventory: what is known of them.
        plan: says of which release.
        holds: by which other rollout a node is held.
        metrics: what was measured, where it matters.
    """
    wishes = inventory.wishes
    found = {}
    for name, node in list(inventory.nodes.items()):
        held = wishes.held(name)
        found[name] = Observation(
            record=node.record(),
            wished=_wished(plan, held.document) if held else None,
            active=_active(plan, node),
            is_current=held is not None and node.reported is not None and node.reported.rev == held.rev,
            is_gated=node.reported is not None and node.reported.gate is not None,
            error=node.reported.error if node.reported else None,
            held_by=holds.get(name),
            metrics=metrics.get(name),
        )
    return found


def name_of(release: str) -> str:
    """The name in `name@version`."""
    return release.partition("@")[0]


def _wished(plan: Plan, document: Desired) -> str | None:
    return document.model if plan.kind == "model" else _of_name(plan, document.adapters)


def _active(plan: Plan, node: Node) -> str | None:
    if node.reported is None:
        return None
    return node.reported.active if plan.kind == "model" else _of_name(plan, node.reported.adapters)


def _of_name(plan: Plan, adapters: list[str]) -> str | None:
    return next((one for one in adapters if name_of(one) == name_of(plan.release)), None)
