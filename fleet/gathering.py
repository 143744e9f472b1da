"""Evidence on a node, gathered from what it said, what it sent lately and who it is."""

from collections import Counter
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from contract.limits import MAX_INTEGER
from contract.presence import Card
from contract.steering import HEARTBEAT_S, Event, Phase
from contract.telemetry import InferRow
from fleet.database import heard
from fleet.database.readings import rows_of
from fleet.evidence import Evidence
from fleet.nodes import Node
from fleet.stored import read, read_all

LATELY_MS = 3600 * 1000
MAX_EVENTS = 1000
# The events that say something about a fault; others may be long, as an answer to a command is.
TELLING = (
    "agent_started", "engine_died", "engine_state", "document_refused", "disk_low", "disk_ok", "clock_wrong",
)  # fmt: skip
ENDS: tuple[Phase, ...] = ("idle", "confirmed", "rolled_back", "refused", "failed")

# Of what is counted by name, one status stands for each: the rules ask for 429 and 500.
_STATUSES = {"ok": 200, "unfit": 422, "late": 408, "busy": 429, "cancelled": 499, "refused": 400, "failed": 500}


class Site(Struct, frozen=True):
    """How many nodes a site has, and how many of them are lost."""

    num_nodes: int = 0
    num_lost: int = 0


def gather(
    connection: Connection, node: Node, site: Site, desired_rev: int | None, broker_down_s: float | None, now_ms: int
) -> Evidence:
    """The evidence as of now."""
    name, is_lost = node.name, node.state == "lost"
    fields: dict[str, Any] = {}
    if identity := heard.identity_of(connection, name):
        until_ms, token_ms = heard.certified_until_ms(connection, name), heard.token_until_ms(connection, name)
        fields |= {
            "enrolled_s": (now_ms - identity.created_ms) / 1000,
            "is_enrolled": identity.key_sha256 is not None,
            "token_left_s": None if token_ms is None else (token_ms - now_ms) / 1000,
            "is_revoked": identity.revoked_ms is not None,
            "certificate_left_s": None if until_ms is None else (until_ms - now_ms) / 1000,
        }
    recent = heard.events_of(connection, name, now_ms - LATELY_MS, MAX_EVENTS, TELLING)
    told = [(row.at_ms, event) for row in recent if (event := read(row.event, Event)) is not None]
    fields |= {
        "clock_ahead_s": None if node.clock_ahead_ms is None else node.clock_ahead_ms / 1000,
        **_of_machine(node),
        **_of_report(node, now_ms),
        **_of_events(told, node),
    }
    return Evidence(
        node=name,
        broker_down_s=broker_down_s,
        state=node.presence,
        seen_s=None if node.seen_ms is None else (now_ms - node.seen_ms) / 1000,
        keepalive_s=HEARTBEAT_S,  # the node may be silent between two reports
        site=node.traits.site or "",
        site_nodes=max(0, site.num_nodes - 1),
        site_nodes_lost=site.num_lost - (is_lost and site.num_lost > 0),
        desired_rev=desired_rev,
        answers=_answers(connection, name, now_ms),
        **fields,
    )


def _of_machine(node: Node) -> dict[str, Any]:
    """What it measured last."""
    if node.machine is None:
        num_models = len(msgspec.json.decode(node.card, type=Card).models) if node.card else None
        return {"ram_mib": node.traits.ram_mib, "num_models": num_models}
    row = node.machine.row
    return {
        "disk_free_mib": row.disk_free_mib, "ram_mib": node.traits.ram_mib, "ram_available_mib": row.ram_available_mib,
        "memory_stalled_percent": row.memory_stalled_percent, "cpu_stalled_percent": row.cpu_stalled_percent,
        "temperature_c": row.temperature_c, "throttled_percent": row.throttled_percent, "queue": row.queue,
        "queue_limit": row.queue_limit, "quarantined": row.quarantined or 0, "num_models": row.models,
        "engine": row.engine,
    }  # fmt: skip


def _of_report(node: Node, now_ms: int) -> dict[str, Any]:
    """How far it is with its wish."""
    reported = node.reported
    if reported is None:
        return {}
    late_ms = 0
    if reported.within_ms is not None and reported.phase not in ENDS:
        late_ms = now_ms - node.reported_ms - reported.within_ms
    return {
        "reported_rev": reported.rev, "phase": reported.phase, "error": reported.error or "",
        "phase_late_s": max(0, late_ms) / 1000, "gate_reasons": _reasons(reported.gate),
    }  # fmt: skip


def _reasons(gate: dict[str, Any] | None) -> tuple[str, ...]:
    """What a gate has against a release. What is in `gate` nobody has checked."""
    found = (gate or {}).get("reasons")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _of_events(events: list[tuple[int, Event]], node: Node) -> dict[str, Any]:
    """What happened lately, the newest first. What came after the last measurement is newer than what that says."""
    measured_ms = node.machine.at_ms if node.machine else 0

    def newest(*names: str) -> tuple[int, dict[str, Any]]:
        return next(((at_ms, event.data) for at_ms, event in events if event.name in names), (0, {}))

    named = [event.name for _, event in events]
    deaths = Counter(str(event.data.get("death")) for _, event in events if event.name == "engine_died")
    refusals = [str(event.data.get("event")) for _, event in events if event.name == "document_refused"]
    found: dict[str, Any] = {
        "starts": named.count("agent_started"),
        "deaths": dict(deaths),
        "document_refusals": tuple(dict.fromkeys(refusals)),
    }
    state_ms, state = newest("engine_state")
    found["engine_problem"] = str(state.get("problem") or newest("engine_died")[1].get("death") or "")
    if state_ms >= measured_ms and state.get("state") in ("broken", "ready"):
        found["engine"] = state["state"]
    disk_ms, disk = newest("disk_low", "disk_ok")
    if disk_ms >= measured_ms and (free_mib := _number(disk.get("free_mib"))) is not None:
        found["disk_free_mib"] = int(free_mib)
    ahead_s = _number(newest("clock_wrong")[1].get("off_s"))
    if ahead_s is not None and abs(ahead_s) * 1000 > abs(node.clock_ahead_ms or 0):
        found["clock_ahead_s"] = ahead_s  # it does not use a clock that it knows to be wrong
    return found


def _number(value: object) -> float | None:
    """What an event says, if it is a number that a message may hold: what is in `data` nobody has checked."""
    return float(value) if isinstance(value, int | float) and abs(value) <= MAX_INTEGER else None


def _answers(connection: Connection, node: str, now_ms: int) -> dict[int, int]:
    """How many requests ended how, lately."""
    found: Counter[int] = Counter()
    rows = rows_of(connection, node, "infer", now_ms - LATELY_MS, now_ms + 1, None)
    for row in read_all((text for _, text in rows), InferRow):
        for name, status in _STATUSES.items():
            found[status] += getattr(row, name)
    return {status: count for status, count in found.items() if count}
