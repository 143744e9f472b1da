"""What the database knows of rollouts: rows in, rows out. Each function is a part of a transaction of its caller."""

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select

from fleet.database.heard import put
from fleet.database.tables import rollout_nodes, rollouts
from fleet.rollout.plan import Plan
from fleet.rollout.state import Node, State


class Rollout(Struct, frozen=True, kw_only=True):
    """A rollout as it is stored. `counts` are its nodes by how far they are (`fleet.rollout.counts`)."""

    number: int
    plan: Plan
    state: State = State()
    counts: dict[str, int] = {}
    actor: str
    created_ms: int
    ended_ms: int | None = None


def next_number(connection: Connection) -> int:
    """One that no rollout has."""
    return (connection.execute(select(func.max(rollouts.c.number))).scalar() or 0) + 1


def under_way(connection: Connection) -> list[Rollout]:
    """Those that are not over, with their nodes, the oldest first."""
    query = select(rollouts).where(rollouts.c.ended_ms.is_(None)).order_by(rollouts.c.number)
    return [_whole(connection, row) for row in connection.execute(query).all()]


def find_rollout(connection: Connection, number: int) -> Rollout | None:
    """One, with its nodes."""
    row = connection.execute(select(rollouts).where(rollouts.c.number == number)).first()
    return _whole(connection, row) if row else None


def list_rollouts(connection: Connection, limit: int) -> list[Rollout]:
    """The newest, without their nodes, the newest first."""
    query = select(rollouts).order_by(rollouts.c.number.desc()).limit(limit)
    return [_head(row) for row in connection.execute(query)]


def write_rollout(connection: Connection, old: Rollout | None, new: Rollout) -> None:
    """Writes a rollout; of its nodes those rows that are not as they were.

    Raises:
        sqlalchemy.exc.IntegrityError: it is new, and there is one of this number.
    """
    head = {
        "number": new.number, "plan": _text(new.plan), "state": _text(replace(new.state, nodes={})),
        "counts": _text(new.counts), "actor": new.actor, "created_ms": new.created_ms, "ended_ms": new.ended_ms,
    }  # fmt: skip
    if old is None:
        connection.execute(insert(rollouts), head)
    else:
        put(connection, rollouts, [head])
    before, after = (old.state.nodes if old else {}), new.state.nodes
    changed = [(name, node) for name, node in after.items() if before.get(name) != node]
    put(connection, rollout_nodes, [{"number": new.number, "node": n, "state": _text(node)} for n, node in changed])
    if gone := before.keys() - after.keys():
        row = delete(rollout_nodes).where(rollout_nodes.c.number == new.number, rollout_nodes.c.node == bindparam("of"))
        connection.execute(row, [{"of": name} for name in sorted(gone)])


def _whole(connection: Connection, row: Row[Any]) -> Rollout:
    head = _head(row)
    found = select(rollout_nodes.c.node, rollout_nodes.c.state).where(rollout_nodes.c.number == head.number)
    nodes = {node: msgspec.json.decode(text, type=Node) for node, text in connection.execute(found)}
    return replace(head, state=replace(head.state, nodes=nodes))


def _head(row: Row[Any]) -> Rollout:
    return Rollout(
        number=row.number,
        plan=msgspec.json.decode(row.plan, type=Plan),
        state=msgspec.json.decode(row.state, type=State),
        counts=msgspec.json.decode(row.counts, type=dict[str, int]),
        actor=row.actor,
        created_ms=row.created_ms,
        ended_ms=row.ended_ms,
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
