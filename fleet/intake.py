"""What nodes say comes in here: into memory at once, and into the database with the next `flush`, in one transaction.

What comes twice counts once: presence by `sess`, events by `eid`, telemetry by `run` and `seq`. A message that cannot
be read is counted, logged once per node, and left out.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from contract import topics
from contract.deadlines import clock_is_set
from contract.presence import Card, NodeState, report_mark
from contract.steering import Desired, Event, Policy, Signed, Telemetry
from contract.telemetry import KINDS, BadTelemetry, InferRow, SysRow, unpack
from contract.topics import BadTopic, Topic
from fleet import series
from fleet.allowance import MAX_HOURLY_BYTES, ROW_BYTES, Allowance
from fleet.database import heard
from fleet.database.readings import add_rows
from fleet.database.store import Database
from fleet.database.tables import events, nodes
from fleet.database.tables import series as series_table
from fleet.errors import FleetError
from fleet.inventory import Inventory
from fleet.link import Incoming
from fleet.logs import describe
from fleet.nodes import Machine, Node, read_reported, traits_of
from fleet.readings import RAW_MS
from fleet.steering import Steering

log = structlog.get_logger()

# A device is in anybody's hands.
MAX_CARD_BYTES = 64 * 1024
MAX_REPORT_BYTES = 16 * 1024
MAX_TELEMETRY_BYTES = 16 * 1024
MAX_EVENT_BYTES = 128 * 1024
MAX_NAME_CHARS = 64


class BadMessage(ValueError):
    """A message that is not what its topic says."""


class Intake:
    """Takes messages and writes them through. For one thread."""

    def __init__(
        self,
        database: Database,
        inventory: Inventory,
        steering: Steering,
        now_ms: Callable[[], int],
        lend: Callable[[str, bytes], object] = lambda _node, _payload: None,
    ) -> None:
        """`lend` takes what nodes hand on for a cloud."""
        self._lend = lend
        self._database = database
        self._inventory = inventory
        self._steering = steering
        self._now_ms = now_ms
        self._changed: set[str] = set()
        self._forgotten: set[str] = set()
        self._counted: set[tuple[str, str]] = set()
        self._rows: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._complained: set[str] = set()
        self._allowance = Allowance()

    def take(self, incoming: Incoming) -> None:
        """Takes a message into memory. Never raises."""
        now_ms = self._now_ms()
        node = ""
        try:
            _, topic = topics.parse(incoming.topic)
            node = getattr(topic, "node", "")
            self._take(topic, incoming.payload, now_ms, is_old=incoming.retained)
        except Exception as error:  # noqa: BLE001  # whatever a message does, those that came with it must be taken
            self._inventory.num_bad_messages += 1
            if node not in self._complained:  # a node cannot fill the log
                self._complained.add(node)
                log.warning("cannot read a message", node=node, topic=incoming.topic, why=_reason(error))
        self._inventory.heard_ms = now_ms

    def flush(self) -> bool:
        """Writes what was taken, and makes what follows from it. False: the database does not take it now."""
        try:
            self._write()
            self._steering.review()
            self._steering.quotas.sync()
        except (SQLAlchemyError, FleetError) as error:
            if self._inventory.is_stored:
                log.error("the database does not take what was heard; trying again", **describe(error))
            self._inventory.is_stored = False
            return False
        self._inventory.is_stored = True
        return True

    def _take(self, topic: Topic, payload: bytes, now_ms: int, *, is_old: bool) -> None:
        match topic:
            case topics.NodeTelemetry(name, kind):
                self._take_telemetry(self._inventory.node(name), kind, payload, now_ms)
            case topics.NodeStatus(name):
                self._take_status(name, payload, now_ms, is_old=is_old)
            case topics.NodeReported(name):
                self._take_reported(name, payload, now_ms, is_old=is_old)
            case topics.NodeCard(name):
                self._take_card(name, payload, now_ms, is_old=is_old)
            case topics.NodeEvent(name, kind):
                self._take_event(name, kind, payload, now_ms)
            case topics.CloudRequest(name):
                self._lend(name, payload)
            case topics.NodeDesired(name) if payload:
                self._steering.heard_desired(name, _document(payload, Desired).rev)
            case topics.ClientQuota(client):
                self._steering.quotas.heard(client, payload)
            case topics.GroupPolicy(group) if payload:
                self._steering.heard_policy(group, _document(payload, Policy).rev)
            case _:
                pass

    def _take_status(self, name: str, payload: bytes, now_ms: int, *, is_old: bool) -> None:
        if not payload:
            self._forget(name)
            return
        status, node = _decode(_STATUS, payload, MAX_REPORT_BYTES), self._inventory.node(name)
        before = node.status
        if not node.take_status(status):
            return
        if before is None or (before.s, before.sess) != (status.s, status.sess):
            self._changed.add(name)
        elif not is_old:
            has_heard = status.report in (None, node.report_mark)
            self._steering.heard_beat(name, node.reported.rev if node.reported and has_heard else 0)
        if status.s == "lost":  # said by the broker: the node's time is that of its connection
            return
        if not is_old:
            node.speak(now_ms)
            node.clock_ahead_ms = status.ts - now_ms
        elif node.seen_ms is None and clock_is_set(status.ts):
            node.seen_ms = min(status.ts, now_ms)

    def _take_card(self, name: str, payload: bytes, now_ms: int, *, is_old: bool) -> None:
        if not payload:
            self._forget(name)
            return
        node = self._inventory.node(name)
        if payload != node.card:
            card = _decode(_CARD, payload, MAX_CARD_BYTES)
            if card.node != name:
                raise BadMessage(f"the card is of {card.node!r}")
            node.card, node.traits = payload, traits_of(card)
            self._changed.add(name)
            self._steering.heard_card(name)
        if not is_old:
            node.speak(now_ms)

    def _take_reported(self, name: str, payload: bytes, now_ms: int, *, is_old: bool) -> None:
        _check_size(payload, MAX_REPORT_BYTES)
        if not payload and name not in self._inventory.nodes:
            return  # it was forgotten
        reported, node = read_reported(payload) if payload else None, self._inventory.node(name)
        if reported != node.reported:
            node.reported, node.reported_ms = reported, now_ms
            self._changed.add(name)
        node.report_mark = report_mark(payload)
        if not is_old:
            node.speak(now_ms)
        self._steering.heard_report(name, reported.rev if reported else 0)

    def _take_event(self, name: str, kind: str, payload: bytes, now_ms: int) -> None:
        event = _decode(_EVENT, payload, MAX_EVENT_BYTES)
        for text in (event.eid, event.name):
            if not 0 < len(text) <= MAX_NAME_CHARS or not text.isprintable():
                raise BadMessage(f"an event's eid and name have 1 to {MAX_NAME_CHARS} printable characters")
        if kind == "cmd":
            self._steering.commands.take(name, event.data)
        self._inventory.node(name).speak(now_ms)
        self._check_allowance(name, len(payload), now_ms)
        row = {"node": name, "eid": event.eid, "kind": kind, "name": event.name, "at_ms": now_ms}
        self._events.append({**row, "event": payload.decode()})

    def _take_telemetry(self, node: Node, kind: str, payload: bytes, now_ms: int) -> None:
        if kind not in KINDS:
            return  # of a newer node
        batch = _decode(_TELEMETRY, payload, MAX_TELEMETRY_BYTES)
        rows: Sequence[SysRow | InferRow] = unpack(batch, SysRow) if kind == "sys" else unpack(batch, InferRow)
        if rows and max(row.age_s for row in rows) * 1000 > RAW_MS:
            raise BadMessage("a row is older than rows are kept")
        node.speak(now_ms)
        node.clock_ahead_ms = batch.ts - now_ms
        self._check_allowance(node.name, len(payload) + ROW_BYTES * len(rows), now_ms)
        node.series[kind], verdict = series.take(node.series.get(kind), batch.run, batch.seq)
        if verdict is series.Verdict.DOUBLE:
            return
        self._counted.add((node.name, kind))
        newest = min(rows, key=lambda row: row.age_s, default=None)
        if isinstance(newest, SysRow):
            node.machine = Machine(now_ms, newest)
        columns = KINDS[kind].__struct_fields__
        for row, cells in zip(rows, batch.rows, strict=True):
            said = {name: cell for name, cell in zip(batch.fields, cells, strict=True) if name in columns}
            text = msgspec.json.encode(said).decode()
            self._rows.append({"node": node.name, "kind": kind, "at_ms": now_ms - row.age_s * 1000, "row": text})

    def _check_allowance(self, name: str, num_bytes: int, now_ms: int) -> None:
        if not self._allowance.take(name, num_bytes, now_ms):
            raise BadMessage(f"it is beyond the {MAX_HOURLY_BYTES} bytes that are stored of a node in an hour")

    def _forget(self, name: str) -> None:
        """A node's retained messages were deleted: it is not part of the fleet any more."""
        self._inventory.nodes.pop(name, None)
        self._forgotten.add(name)

    def _write(self) -> None:
        known = self._inventory.nodes
        changed = [_node_row(known[name]) for name in self._changed if name in known]
        counted = [_series_row(known[name], kind) for name, kind in self._counted if name in known]
        if changed or counted or self._rows or self._events or self._forgotten:
            with self._database.write() as connection:
                heard.put(connection, nodes, changed)
                heard.put(connection, series_table, counted)
                add_rows(connection, self._rows)
                heard.add_new(connection, events, self._events)
                heard.forget_nodes(connection, self._forgotten - known.keys())
        self._changed, self._counted, self._rows, self._events, self._forgotten = set(), set(), [], [], set()


T = TypeVar("T")
Document = TypeVar("Document", Desired, Policy)

_STATUS = msgspec.json.Decoder(NodeState)
_CARD = msgspec.json.Decoder(Card)
_EVENT = msgspec.json.Decoder(Event)
_TELEMETRY = msgspec.json.Decoder(Telemetry)


def _reason(error: Exception) -> str:
    """Why a message was left out; of an error that nobody foresaw its kind too."""
    foreseen = isinstance(error, msgspec.MsgspecError | BadMessage | BadTelemetry | BadTopic)
    return str(error)[:200] if foreseen else f"{type(error).__name__}: {error}"[:200]


def _decode(decoder: "msgspec.json.Decoder[T]", payload: bytes, max_bytes: int) -> T:
    _check_size(payload, max_bytes)
    # What is kept as text must be text, also where the decoder does not look; and PostgreSQL takes no zero bytes.
    if "\0" in payload.decode():
        raise BadMessage("it holds a zero byte")
    return decoder.decode(payload)


def _check_size(payload: bytes, max_bytes: int) -> None:
    if len(payload) > max_bytes:
        raise BadMessage(f"it has {len(payload)} bytes, at most {max_bytes} are read")


def _document(payload: bytes, kind: type[Document]) -> Document:
    """A document of ours as the broker keeps it. Only we may write there, so the signature is not looked at."""
    return msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=kind)


def _node_row(node: Node) -> dict[str, Any]:
    return {
        "node": node.name,
        "status": msgspec.json.encode(node.status).decode() if node.status else None,
        "card": node.card.decode() or None,
        "reported": msgspec.json.encode(node.reported).decode() if node.reported else None,
        "reported_ms": node.reported_ms,
        "seen_ms": node.seen_ms or 0,
    }


def _series_row(node: Node, kind: str) -> dict[str, Any]:
    last = msgspec.json.encode(node.machine.row).decode() if kind == "sys" and node.machine else None
    at_ms = node.seen_ms or 0
    return {
        "node": node.name, "kind": kind, "at_ms": at_ms, "last": last,
        "series": msgspec.json.encode(node.series[kind]).decode(),
    }  # fmt: skip
