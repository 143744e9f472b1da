"""What a node says about itself: presence, card, where it is with its desired state, and what it measures."""

from asyncio import Future
from collections.abc import Callable

import msgspec

from agent.card import make_card
from agent.catalog import Catalog
from agent.config import Config
from agent.link import Link
from contract import topics
from contract.presence import NodeState, State, report_mark
from contract.steering import Reported


class Presence:
    """The node's own topics. `session` is that of the present connection."""

    def __init__(self, config: Config, models: Catalog, link: Link, now_ms: Callable[[], int]) -> None:
        self._config = config
        self._models = models
        self._link = link
        self._now_ms = now_ms
        self._report_mark: str | None = None
        self.session = 0

    @property
    def state(self) -> State:
        """How the node is."""
        if self._models.draining:
            return "draining"
        return "online" if self._models.is_up else "degraded"

    @property
    def topic(self) -> str:
        """Where presence stands."""
        return topics.NodeStatus(self._config.node.id).path(self._config.node.fleet)

    def payload(self, state: State) -> bytes:
        """Presence, as it is published."""
        return msgspec.json.encode(NodeState(state, self.session, self._now_ms()))

    def say(self) -> None:
        """Publishes presence and card."""
        if not self._link.connected:
            return
        self._link.publish(self.topic, self.payload(self.state), qos=1, retain=True)
        default = self._models.default
        ready = default.ready if default else None
        card = make_card(self._config, self._models.cards(), self._models.adapter_cards(), ready, self._now_ms())
        topic = topics.NodeCard(self._config.node.id).path(self._config.node.fleet)
        self._link.publish(topic, msgspec.json.encode(card), qos=1, retain=True)

    def beat(self) -> None:
        """Says again that it is there. With QoS 0: a broker must not keep these for a controller that is away."""
        state = NodeState(self.state, self.session, self._now_ms(), self._report_mark)
        self._link.publish(self.topic, msgspec.json.encode(state), qos=0, retain=True)

    def say_goodbye(self) -> "Future[None] | None":
        """Publishes that the node was stopped."""
        return self._link.publish(self.topic, self.payload("offline"), qos=1, retain=True)

    def report(self, reported: Reported) -> None:
        """Publishes where the node is with its desired state."""
        topic = topics.NodeReported(self._config.node.id).path(self._config.node.fleet)
        payload = msgspec.json.encode(reported)
        self._report_mark = report_mark(payload)
        self._link.publish(topic, payload, qos=1, retain=True)

    def measure(self, kind: str, batch: bytes) -> None:
        """Publishes a batch of telemetry."""
        self._link.publish(topics.NodeTelemetry(self._config.node.id, kind).path(self._config.node.fleet), batch, qos=0)
