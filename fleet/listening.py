"""Listens to the broker: what comes goes into the intake, and about once a second into the database.

The broker forgets a message of QoS 1 when it is in the database, not before: what a controller that dies has heard and
not written comes again to the next. Who says nothing after a new connection, though the broker has it as being there,
is missing: the broker may have died, and with it nodes of which it then says nothing.
"""

import threading
import time
from collections.abc import Callable

import structlog

from fleet.intake import Intake
from fleet.inventory import Inventory
from fleet.link import Incoming, Link
from fleet.logs import describe
from fleet.nodes import RETURN_MS, SETTLE_MS
from fleet.steering import Steering

log = structlog.get_logger()

FLUSH_S = 1.0
GATHER_S = 0.05  # messages come one by one; waking up for each would cost more than reading it
MOST = 2000  # messages between two looks at the clock


class Listening:
    """Takes messages from a link to the intake. For one thread."""

    def __init__(self, intake: Intake, inventory: Inventory, steering: Steering, now_ms: Callable[[], int]) -> None:
        self._intake = intake
        self._inventory = inventory
        self._steering = steering
        self._now_ms = now_ms
        self._connected_ms: int | None = None  # None: who is missing since then is known

    def run(self, link: Link, ended: threading.Event) -> None:
        """Takes what comes until `ended`, then writes the rest."""
        num_connections, due, taken = 0, 0.0, list[Incoming]()
        while not ended.wait(GATHER_S):
            try:
                num_connections = self._look(link, num_connections)
                if self._inventory.is_stored:
                    new = link.batch(GATHER_S, MOST)
                    taken += [incoming for incoming in new if incoming.mid]
                    for incoming in new:
                        self._intake.take(incoming)
                    if new:
                        self._inventory.announce()
                    self.miss()
                elif self._connected_ms is not None:
                    self.begin()  # nobody is heard meanwhile
                if time.monotonic() >= due:
                    due = time.monotonic() + FLUSH_S
                    if self._intake.flush():
                        link.acknowledge(taken)
                        taken = []
            except Exception as error:  # noqa: BLE001  # nothing that a node says may end this; what it was is in the log
                log.error("the intake failed and goes on", **describe(error))
        if self._intake.flush():
            link.acknowledge(taken)

    def begin(self) -> None:
        """There is a new connection."""
        self._connected_ms = self._now_ms()

    def miss(self) -> None:
        """Finds the nodes that should be there and have said nothing since the connection came."""
        now_ms, since_ms = self._now_ms(), self._connected_ms
        if since_ms is None or now_ms < since_ms + RETURN_MS:
            return
        for node in list(self._inventory.nodes.values()):
            node.is_missing |= node.is_online and node.spoke_ms < since_ms + SETTLE_MS
        self._connected_ms = None
        self._inventory.announce()

    def _look(self, link: Link, num_connections: int) -> int:
        """How the connection is. A new one may be to a broker that has lost what was published."""
        is_new = link.num_connections != num_connections
        was_down = self._inventory.broker_down_since_ms is not None
        if link.connected:
            self._inventory.broker_down_since_ms = None
        elif not was_down:
            self._inventory.broker_down_since_ms, self._connected_ms = self._now_ms(), None
            self._inventory.announce()
        # A connection may have come, or gone and come back, before anybody looked.
        has_gone = (is_new or not was_down) if not link.connected else (is_new and num_connections > 0 and not was_down)
        if has_gone:
            log.warning("the connection to the broker is lost; trying again", broker=link.broker.address)
        if is_new:
            if num_connections:
                log.info("connected to the broker again", broker=link.broker.address)
            self.begin()
            self._steering.resend()
        return link.num_connections
