"""What the database knows of nodes: what they said last, and their events. Parts of a transaction of the caller."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from fleet.database.tables import certificates, events, identities, nodes, series

Values = dict[str, Any]
AnyRow = Row[*tuple[Any, ...]]


def put(connection: Connection, table: Table, rows: list[Values]) -> None:
    """Writes rows, in place of those with the same key."""
    if rows:
        statement = _insert(connection, table)
        others = {name: statement.excluded[name] for name in rows[0] if name not in table.primary_key.columns}
        keys = list(table.primary_key.columns)
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), rows)


def add_new(connection: Connection, table: Table, rows: list[Values]) -> None:
    """Writes rows; one whose key is there already stays as it is."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def all_nodes(connection: Connection) -> Iterator[AnyRow]:
    """Every node: `node, status, card, reported, reported_ms, seen_ms`."""
    yield from connection.execute(select(nodes)).yield_per(1000)


def all_series(connection: Connection) -> Iterator[AnyRow]:
    """Every series: `node, kind, at_ms, series, last`."""
    yield from connection.execute(select(series)).yield_per(1000)


def forget_nodes(connection: Connection, names: Iterable[str]) -> None:
    """Forgets what nodes said last; what they measured and their events end with their time."""
    for table in (nodes, series):
        connection.execute(delete(table).where(table.c.node.in_(list(names))))


def events_of(connection: Connection, node: str, since_ms: int, limit: int) -> list[AnyRow]:
    """A node's events, the newest first: `kind, at_ms, event`."""
    query = select(events.c.kind, events.c.at_ms, events.c.event)
    query = query.where(events.c.node == node, events.c.at_ms >= since_ms)
    return list(connection.execute(query.order_by(events.c.at_ms.desc(), events.c.eid).limit(limit)))


def enrolled_nodes(connection: Connection) -> set[str]:
    """Names of the nodes that have a key and are not revoked."""
    query = select(identities.c.id).where(
        identities.c.role == "node", identities.c.key_sha256.is_not(None), identities.c.revoked_ms.is_(None)
    )
    return set(connection.execute(query).scalars())


def identity_of(connection: Connection, node: str) -> AnyRow | None:
    """A node's identity: `created_ms, revoked_ms`."""
    query = select(identities.c.created_ms, identities.c.revoked_ms)
    return connection.execute(query.where(identities.c.id == node, identities.c.role == "node")).first()


def certified_until_ms(connection: Connection, node: str) -> int | None:
    """When the last of a node's certificates that are not revoked expires."""
    query = select(certificates.c.expires_ms).where(
        certificates.c.identity == node, certificates.c.revoked_ms.is_(None)
    )
    return connection.execute(query.order_by(certificates.c.expires_ms.desc()).limit(1)).scalar()


def _insert(connection: Connection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
