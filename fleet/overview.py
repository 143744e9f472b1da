"""The fleet at a glance, from retained messages: who is there, in which state, with what. Pure."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from contract.deadlines import clock_is_set
from contract.presence import Card, ControllerState, NodeState
from contract.topics import ControllerStatus, NodeCard, NodeStatus, Topic

# Worst first. "unknown": a card and no status, or a status that cannot be read.
STATES = ("lost", "offline", "unknown", "degraded", "draining", "online")


@dataclass(frozen=True)
class Row:
    """One node. What is not known is None."""

    node: str
    state: str
    age_s: float | None
    model: str | None
    decode_tok_s: float | None
    context_tokens: int | None
    ram_mib: int | None
    agent: str | None


@dataclass
class Overview:
    """What was heard so far. Feed it with `take`, then ask it."""

    statuses: dict[str, NodeState | None] = field(default_factory=dict)
    cards: dict[str, Card | None] = field(default_factory=dict)
    controller: ControllerState | None = None

    def take(self, topic: Topic, payload: bytes) -> None:
        """Takes a status or card; an empty payload means that it was deleted."""
        match topic:
            case NodeStatus(node):
                self._take_status(node, payload)
            case NodeCard(node) if payload:
                self.cards[node] = _decode(payload, Card)
            case NodeCard(node):
                self.cards.pop(node, None)
            case ControllerStatus():
                self.controller = _decode(payload, ControllerState) if payload else None
            case _:
                pass

    def _take_status(self, node: str, payload: bytes) -> None:
        if not payload:
            self.statuses.pop(node, None)
            return
        new, old = _decode(payload, NodeState), self.statuses.get(node)
        # The will of a connection that was already replaced says "lost" about a node that is there (rule 5).
        if new is None or old is None or new.s != "lost" or new.sess >= old.sess:
            self.statuses[node] = new

    def rows(self, now_ms: int) -> list[Row]:
        """One row per node, worst first, then by name."""
        rows = [self._row(node, now_ms) for node in self.statuses.keys() | self.cards.keys()]
        return sorted(rows, key=lambda row: (STATES.index(row.state), row.node))

    def _row(self, node: str, now_ms: int) -> Row:
        status, card = self.statuses.get(node), self.cards.get(node)
        model = card.models[0] if card and card.models else None
        return Row(
            node=node,
            state=status.s if status else "unknown",
            age_s=_age_s(status.ts if status else card.ts if card else None, now_ms),
            model=f"{model.name}@{model.version}" if model else None,
            decode_tok_s=card.speed.decode_tok_s if card and card.speed else None,
            context_tokens=model.context_tokens if model else None,
            ram_mib=card.hardware.ram_mib if card else None,
            agent=card.versions.get("shoal") if card else None,
        )

    @property
    def healthy(self) -> bool:
        """Whether everything that is known of is online."""
        states = [status and status.s for status in self.statuses.values()]
        states += [None for node in self.cards if node not in self.statuses]
        states += [self.controller.s] if self.controller else []
        return all(state == "online" for state in states)

    def verdict(self) -> str:
        """One line, such as "3 nodes: 2 online, 1 lost"."""
        states = [row.state for row in self.rows(0)]
        if states:
            counts = [f"{states.count(s)} {s}" for s in reversed(STATES) if s in states]
            line = f"{len(states)} node{'' if len(states) == 1 else 's'}: {', '.join(counts)}"
        else:
            line = "no nodes"
        return line + (f"; controller {self.controller.s}" if self.controller else "")

    def as_json(self, now_ms: int) -> dict[str, Any]:
        """The same for programs."""
        return {
            "verdict": self.verdict(),
            "healthy": self.healthy,
            "controller": msgspec.to_builtins(self.controller),
            "nodes": msgspec.to_builtins(self.rows(now_ms)),
        }


T = TypeVar("T")


def _decode(payload: bytes, kind: type[T]) -> T | None:
    """The message, or None when it cannot be read: one odd node must not hide the others."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _age_s(ts_ms: int | None, now_ms: int) -> float | None:
    """Seconds since `ts_ms`; None when the node did not know the time. Clocks differ: never negative."""
    if ts_ms is None or not clock_is_set(ts_ms):
        return None
    return max(0.0, (now_ms - ts_ms) / 1000)
