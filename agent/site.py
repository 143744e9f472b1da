"""The nodes of this node's site: it tells them its load, and hears theirs."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from agent.neighbours import STALE_S, Neighbours, differs_much
from contract.ids import is_id
from contract.presence import Load
from contract.topics import NodeLoad

log = structlog.get_logger()

LOOK_S = 2


class Site:
    """Without a site there are no neighbours, and nothing is told."""

    def __init__(
        self,
        node: str,
        site: str,
        fleet: str,
        *,
        own_load: Callable[[], Load | None],
        publish: Callable[..., Any],
        now_ms: Callable[[], int],
    ) -> None:
        """`own_load`: as of now; None while no engine runs."""
        self.name = site if is_id(site) else ""
        if site and not self.name:
            log.warning("a site that is no id has no neighbours", site=site)
        self._node = node
        self._fleet = fleet
        self._own_load = own_load
        self._publish = publish
        self._now_ms = now_ms
        self._said: Load | None = None
        self.neighbours = Neighbours()

    @property
    def filters(self) -> list[str]:
        """What to subscribe to."""
        return [NodeLoad.filter(self._fleet, site=self.name)] if self.name else []

    def hear(self, topic: NodeLoad, payload: bytes, *, retained: bool) -> None:
        """A node of the site told its load."""
        if topic.node == self._node:
            return
        try:
            load = msgspec.json.decode(payload, type=Load) if payload else None
        except msgspec.MsgspecError as error:
            log.warning("cannot read a neighbour's load", node=topic.node, why=str(error))
            return
        # The broker keeps what a node said last, also of one that has gone without a word.
        if retained and load is not None and abs(self._now_ms() - load.ts) > STALE_S * 1000:
            return
        self.neighbours.heard(topic.node, load, time.monotonic())

    def tell(self, again: bool = False) -> None:
        """Says the own load, if it has changed much; `again`: in any case."""
        if not self.name:
            return
        load = self._own_load()
        if load is None and self._said is not None:
            self._say(b"")
        elif load is not None and (again or differs_much(self._said, load)):
            self._say(msgspec.json.encode(load))
        else:
            return
        self._said = load

    def leave(self) -> None:
        """Takes back what the broker keeps: this node ends."""
        if self.name:
            self._say(b"")

    def _say(self, payload: bytes) -> None:
        topic = NodeLoad(self.name, self._node).path(self._fleet)
        self._publish(topic, payload, qos=0, retain=True)
