"""The controller's state without a broker: messages go in as nodes send them, and what it would publish is kept."""

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract import topics
from contract.mqtt5 import Properties
from contract.presence import Card, Hardware, ModelInfo, NodeState, State
from contract.steering import Desired, Event, Phase, Policy, Reported, Signed, Telemetry
from contract.telemetry import InferRow, SysRow, pack_infer, pack_sys
from fleet.causes import causes
from fleet.database.store import open_database
from fleet.forgetting import Forgetting
from fleet.intake import Intake
from fleet.inventory import Inventory
from fleet.link import Incoming
from fleet.listening import Listening
from fleet.rollouts import Rollouts
from fleet.steering import Steering

FLEET = "home"
START_MS = 1_800_000_000_000
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MODEL = ModelInfo("smol", "1", "5a" * 32, 1000, "llama", 2048, 4)
FIT = SysRow(
    age_s=0, cpu_percent=9, cpu_stalled_percent=2, ram_available_mib=1800, memory_stalled_percent=0, temperature_c=60,
    disk_free_mib=9000, queue=1, queue_limit=64, engine="ready", models=1, quarantined=0,
)  # fmt: skip
BUSY = InferRow(age_s=0, span_s=1800, model="smol@1", ok=300, late=2, busy=3)


def card(node: str, **fields: Any) -> Card:
    """A node's card."""
    hardware = Hardware("aarch64", "Cortex-A76", 4, fields.pop("ram_mib", 4096), "Linux 6.6")
    return Card(node=node, versions={"shoal": "0.1.0"}, hardware=hardware, ts=START_MS, **{"models": [MODEL], **fields})


class Headquarters:
    """Inventory, steering and intake on a database, with a clock that the test sets."""

    def __init__(self, database_url: str, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms
        self.database = open_database(database_url)
        self.inventory = Inventory(self.database, self.clock)
        self.inventory.load()
        self.inventory.broker_down_since_ms = None
        self.posts: list[tuple[topics.Topic, bytes]] = []
        self.connected = True
        self.approved = {("tone@1", "adapter")}
        self.on_command: Callable[[bytes], None] | None = None
        self.steering = Steering(self.database, self.inventory, [KEY], self._post, self.clock, self.approves)
        self.rollouts = Rollouts(self.database, self.inventory, self.steering, self._post, self.clock, self.approves)
        self.forgetting = Forgetting(self.database, self.inventory, self.steering, self._post, self.clock)
        self.intake = Intake(self.database, self.inventory, self.steering, self.clock)
        self.listening = Listening(self.intake, self.inventory, self.steering, self.clock)
        self._seqs: dict[tuple[str, str], itertools.count[int]] = {}
        self._eids = itertools.count(1)
        self.sess = 0

    def clock(self) -> int:
        """The time."""
        return self.now_ms

    def approves(self, release: str, kind: str) -> bool:
        """Whether a release is approved."""
        return (release, kind) in self.approved

    def _post(self, topic: topics.Topic, payload: bytes) -> bool:
        if self.connected:
            self.posts.append((topic, payload))
            if isinstance(topic, topics.NodeCommand) and self.on_command:
                self.on_command(payload)
        return self.connected

    def close(self) -> None:
        """Writes nothing more."""
        self.database.close()

    # What nodes send.

    def hear(self, topic: topics.Topic, message: msgspec.Struct | bytes, *, retained: bool = False) -> None:
        """A message comes in and is written."""
        payload = message if isinstance(message, bytes) else msgspec.json.encode(message)
        self.intake.take(Incoming(topic.path(FLEET), payload, retained, Properties(), 1, 1))
        assert self.intake.flush()

    def status(self, node: str, state: State = "online", *, sess: int | None = None, ts: int | None = None) -> None:
        """A node's presence; without `sess` that of a new connection."""
        self.sess += 1
        ts = self.now_ms if ts is None else ts
        self.hear(topics.NodeStatus(node), NodeState(state, self.sess if sess is None else sess, ts))

    def card(self, node: str, **fields: Any) -> None:
        """A node's card."""
        self.hear(topics.NodeCard(node), card(node, **fields))

    def join(self, node: str, **fields: Any) -> None:
        """A node comes that is well."""
        self.status(node)
        self.card(node, **fields)
        self.report(node, 0, "idle")
        self.sys(node, FIT)

    def report(self, node: str, rev: int, phase: Phase = "confirmed", **fields: Any) -> None:
        """A node's report."""
        self.hear(topics.NodeReported(node), Reported(rev=rev, phase=phase, **fields))

    def event(self, node: str, name: str, data: dict[str, Any], *, kind: str = "alert", eid: str | None = None) -> None:
        """An event."""
        event = Event(eid or f"e{next(self._eids)}", self.now_ms, name, data)
        self.hear(topics.NodeEvent(node, kind), event)

    def sys(self, node: str, row: SysRow, *, ts: int | None = None) -> None:
        """A measurement of the machine."""
        self.telemetry(node, "sys", pack_sys("r1", self._seq(node, "sys"), ts or self.now_ms, [row], 2000))

    def infer(self, node: str, *rows: InferRow) -> None:
        """Counted requests."""
        self.telemetry(node, "infer", pack_infer("r1", self._seq(node, "infer"), self.now_ms, rows, 9000))

    def telemetry(self, node: str, kind: str, batch: Telemetry) -> None:
        """A batch."""
        self.hear(topics.NodeTelemetry(node, kind), batch)

    def _seq(self, node: str, kind: str) -> int:
        return next(self._seqs.setdefault((node, kind), itertools.count()))

    # What the controller says.

    def documents(self, node: str) -> list[Desired]:
        """What was published for a node."""
        return [_read(payload, Desired) for topic, payload in self.posts if topic == topics.NodeDesired(node)]

    def policies(self, group: str) -> list[Policy | None]:
        """What was published for a group; None: it was deleted."""
        found = [payload for topic, payload in self.posts if topic == topics.GroupPolicy(group)]
        return [_read(payload, Policy) if payload else None for payload in found]

    def why(self, node: str) -> list[str]:
        """What is wrong with a node, the root first."""
        return [cause.name for cause in causes(self.inventory.evidence(node))]


def _read(payload: bytes, kind: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=kind)
