"""Nodes of one site that fetch releases, with a broker that is a loop over them."""

import asyncio
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from agent.clock import Clock
from agent.config import Updates
from agent.update.delivery import Delivery
from agent.update.swarm import Swarm
from contract.release import Release
from tests.fakes.certificates import Authority


class SiteNode:
    """A node of the site s1, with an identity of its own."""

    def __init__(self, folder: Path, name: str, url: str, bus: "Bus") -> None:
        self.name = name
        self.target = folder / "target"
        self.held: list[tuple[Release, Path]] = []
        self.alerts: list[dict[str, Any]] = []
        identity = folder / "identity"
        identity.mkdir(parents=True)
        authority = Authority(identity)
        certificate = authority.sign(name).read_text()
        (identity / "identity.pem").write_text(authority.key(name).read_text() + certificate)
        authority.file.rename(identity / "ca.pem")
        self.updates = Updates(sources=[url], neighbours=True)
        self._background: set[asyncio.Task[None]] = set()
        self.delivery = Delivery(
            folder / "delivery",
            identity,
            identity=lambda: None,
            settings=lambda: self.updates,
            clock=Clock(0, system_ms=lambda: time.time_ns() // 1_000_000, monotonic_s=time.monotonic),
            held=lambda: self.held,
            on_alert=lambda _, data: self.alerts.append(data),
            neighbours=lambda file: self.swarm.neighbours(file),  # noqa: PLW0108  # it is made below
            on_lots=self.look,
        )
        self.swarm = Swarm(
            name,
            "s1",
            pem_file=identity / "identity.pem",
            broker_host="127.0.0.1",
            settings=lambda: self.updates,
            lots=lambda: self.delivery.lots,
            publish=lambda payload: bus.publish(self, payload),
            on_change=self.change,
        )
        bus.nodes.append(self)

    def allow_neighbours(self, allowed: bool) -> None:
        """As an operator sets it."""
        self.updates = replace(self.updates, neighbours=allowed)

    def change(self) -> None:
        """Others have something else."""
        self.delivery.neighbours_changed()
        self.look()

    def look(self) -> None:
        """As the daemon does it."""
        task = asyncio.get_running_loop().create_task(self.swarm.look())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class Bus:
    """What the broker is to the nodes here: each message at once, to all others."""

    def __init__(self) -> None:
        self.nodes: list[SiteNode] = []

    def publish(self, sender: SiteNode, payload: bytes) -> None:
        """Hands it out."""
        for node in self.nodes:
            node.swarm.take(sender.name, payload)
