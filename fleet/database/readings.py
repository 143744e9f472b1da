"""Telemetry in the database. Each function is a part of a transaction of its caller; times are ms since 1970."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, tuple_

from fleet.database.heard import AnyRow
from fleet.database.tables import events, hourly, telemetry

MANY = 500  # names in one query


def add_rows(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Adds rows: `node, kind, at_ms, row`."""
    if rows:
        connection.execute(insert(telemetry), rows)


def rows_of(
    connection: Connection, node: str, kind: str, since_ms: int, until_ms: int, limit: int | None
) -> list[AnyRow]:
    """A node's rows as they came, the newest first: `at_ms, row`. `until_ms` is not in it."""
    query = select(telemetry.c.at_ms, telemetry.c.row).where(telemetry.c.node == node, telemetry.c.kind == kind)
    query = query.where(telemetry.c.at_ms >= since_ms, telemetry.c.at_ms < until_ms)
    query = query.order_by(telemetry.c.at_ms.desc(), telemetry.c.number.desc())
    return list(connection.execute(query.limit(limit)))


def all_rows(
    connection: Connection, table: Table, kind: str, since_ms: int, until_ms: int, nodes: Collection[str] | None
) -> Iterator[str]:
    """Rows of these nodes (None: of all) from `telemetry` or `hourly`, in no order."""
    span: list[ColumnElement[bool]] = [table.c.kind == kind, table.c.at_ms >= since_ms, table.c.at_ms < until_ms]
    if nodes is None:
        yield from connection.execute(select(table.c.row).where(*span)).yield_per(1000).scalars()
        return
    names = sorted(nodes)
    for start in range(0, len(names), MANY):
        some = table.c.node.in_(names[start : start + MANY])
        yield from connection.execute(select(table.c.row).where(some, *span)).yield_per(1000).scalars()


def hour_of(connection: Connection, kind: str, start_ms: int, end_ms: int) -> Iterator[AnyRow]:
    """The rows of a span, node by node: `node, row`."""
    where = (telemetry.c.kind == kind, telemetry.c.at_ms >= start_ms, telemetry.c.at_ms < end_ms)
    query = select(telemetry.c.node, telemetry.c.row).where(*where).order_by(telemetry.c.node)
    yield from connection.execute(query).yield_per(1000)


def last_hour(connection: Connection, kind: str) -> int | None:
    """The newest hour that was folded."""
    return connection.execute(select(func.max(hourly.c.at_ms)).where(hourly.c.kind == kind)).scalar()


def first_row(connection: Connection, kind: str, since_ms: int) -> int | None:
    """When the oldest row came that is not older than this."""
    query = select(func.min(telemetry.c.at_ms)).where(telemetry.c.kind == kind, telemetry.c.at_ms >= since_ms)
    return connection.execute(query).scalar()


def delete_before(connection: Connection, table: Table, at_ms: int, limit: int) -> int:
    """Deletes at most so many old rows; returns how many. Few at once, so that nobody waits for it."""
    keys = list(table.primary_key.columns)
    if table is events:
        old = select(*keys).where(table.c.at_ms < at_ms)
    else:  # the index begins with the kind
        old = select(*keys).where(table.c.kind.in_(["sys", "infer"]), table.c.at_ms < at_ms)
    if table is telemetry:
        doomed = delete(table).where(table.c.number.in_(old.limit(limit)))
    else:
        doomed = delete(table).where(tuple_(*keys).in_(old.limit(limit)))
    return connection.execute(doomed).rowcount


def newest_number(connection: Connection) -> int:
    """Of the rows as they came."""
    return connection.execute(select(func.max(telemetry.c.number))).scalar() or 0


def rows_between(connection: Connection, above: int, most: int) -> Iterator[AnyRow]:
    """Rows of requests of all nodes by their numbers, `above` not included: `node, at_ms, row`."""
    query = select(telemetry.c.node, telemetry.c.at_ms, telemetry.c.row).where(telemetry.c.kind == "infer")
    query = query.where(telemetry.c.number > above, telemetry.c.number <= most)
    yield from connection.execute(query).yield_per(1000)


def rows_since(connection: Connection, node: str, since_ms: int, most: int) -> list[str]:
    """A node's rows of requests up to a number."""
    query = select(telemetry.c.row).where(telemetry.c.node == node, telemetry.c.kind == "infer")
    return list(connection.execute(query.where(telemetry.c.at_ms >= since_ms, telemetry.c.number <= most)).scalars())
