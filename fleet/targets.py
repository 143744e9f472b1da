"""Whom one can ask: the nodes, and the pools that they say they are in."""

from typing import Literal

from fleet.inventory import Inventory

Target = tuple[Literal["node", "pool"], str]
HERE = ("online", "degraded", "draining")


class Targets:
    """Nodes and pools, as the inventory knows them. Safe to use from several threads."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def is_here(self, target: Target) -> bool | None:
        """Whether somebody would hear a request now; None when there is no such node or pool."""
        kind, name = target
        if kind == "node":
            return self._inventory.is_online(name) if self._inventory.knows(name) else None
        members = [node for node in list(self._inventory.nodes.values()) if name in node.traits.pools]
        return any(node.state in HERE for node in members) if members else None

    def here(self) -> list[Target]:
        """All that would hear a request now, pools first."""
        nodes = [node for node in list(self._inventory.nodes.values()) if node.state in HERE]
        pools = {pool for node in nodes for pool in node.traits.pools}
        return [
            *(("pool", pool) for pool in sorted(pools)),
            *(("node", name) for name in sorted(n.name for n in nodes)),
        ]
