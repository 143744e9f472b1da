"""What the database knows of nodes: what they said last, and their events. Parts of a transaction of the caller."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from fleet.database.tables import certificates, events, identities, nodes, series, tokens

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


def events_of(
    connection: Connection, node: str, since_ms: int, limit: int, names: Iterable[str] | None = None
) -> list[AnyRow]:
    """A node's events, all or those with these names, the newest first: `kind, at_ms, event`."""
    query = select(events.c.kind, events.c.at_ms, events.c.event)
    query = query.where(events.c.node == node, events.c.at_ms >= since_ms)
    if names is not None:
        query = query.where(events.c.name.in_(names))
    return list(connection.execute(query.order_by(events.c.at_ms.desc(), events.c.eid).limit(limit)))


def expected_nodes(connection: Connection) -> dict[str, bool]:
    """The nodes that are not revoked, and whether each has enrolled."""
    query = select(identities.c.id, identities.c.key_sha256)
    query = query.where(identities.c.role == "node", identities.c.revoked_ms.is_(None))
    return {name: key is not None for name, key in connection.execute(query)}


def revoked_nodes(connection: Connection) -> set[str]:
    """Names of the nodes that are revoked."""
    query = select(identities.c.id).where(identities.c.role == "node", identities.c.revoked_ms.is_not(None))
    return set(connection.execute(query).scalars())


def identity_of(connection: Connection, node: str) -> AnyRow | None:
    """A node's identity: `created_ms, revoked_ms, key_sha256`."""
    query = select(identities.c.created_ms, identities.c.revoked_ms, identities.c.key_sha256)
    return connection.execute(query.where(identities.c.id == node, identities.c.role == "node")).first()


def token_until_ms(connection: Connection, node: str) -> int | None:
    """When the last token expires with which a node can still enrol."""
    query = select(func.max(tokens.c.expires_ms)).where(tokens.c.identity == node, tokens.c.used_ms.is_(None))
    return connection.execute(query).scalar()


def certified_until_ms(connection: Connection, node: str) -> int | None:
    """When the last of a node's certificates that are not revoked expires."""
    query = select(certificates.c.expires_ms).where(
        certificates.c.identity == node, certificates.c.revoked_ms.is_(None)
    )
    return connection.execute(query.order_by(certificates.c.expires_ms.desc()).limit(1)).scalar()


def named_events(connection: Connection, name: str, since_ms: int) -> list[AnyRow]:
    """Events of a name, of all nodes: `node, at_ms`."""
    query = select(events.c.node, events.c.at_ms)
    return list(connection.execute(query.where(events.c.name == name, events.c.at_ms >= since_ms)))


def _insert(connection: Connection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
