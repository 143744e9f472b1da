"""What the database knows of operators: rows in, rows out. Each function is a part of a transaction of its caller."""

from sqlalchemy import Connection, delete, insert, or_, select, update

from fleet.database.tables import operators
from fleet.roles import Operator, Role

_OPERATOR = (
    operators.c.name, operators.c.role, operators.c.created_ms, operators.c.expires_ms, operators.c.revoked_ms,
)  # fmt: skip


def find_operator(connection: Connection, name: str) -> tuple[Operator, str] | None:
    """The operator with this name, and the digest of the token."""
    row = connection.execute(select(*_OPERATOR, operators.c.sha256).where(operators.c.name == name)).first()
    return (Operator(*row[:-1]), row[-1]) if row else None


def list_operators(connection: Connection) -> list[Operator]:
    """All, by name."""
    return [Operator(*row) for row in connection.execute(select(*_OPERATOR).order_by(operators.c.name))]


def drop_operator(connection: Connection, name: str) -> None:
    """Forgets an operator."""
    connection.execute(delete(operators).where(operators.c.name == name))


def drop_void(connection: Connection, name: str, now_ms: int) -> None:
    """Forgets an operator whose token is void."""
    is_void = or_(operators.c.revoked_ms.is_not(None), operators.c.expires_ms <= now_ms)
    connection.execute(delete(operators).where(operators.c.name == name, is_void))


def add_operator(
    connection: Connection, name: str, role: Role, sha256: str, now_ms: int, expires_ms: int | None
) -> None:
    """Adds an operator.

    Raises:
        sqlalchemy.exc.IntegrityError: there is one of this name.
    """
    values = {"name": name, "role": role, "sha256": sha256, "created_ms": now_ms, "expires_ms": expires_ms}
    connection.execute(insert(operators).values(values))


def revoke_operator(connection: Connection, name: str, now_ms: int) -> bool:
    """Makes a token void; returns whether there was one that was not."""
    revoked = connection.execute(
        update(operators).where(operators.c.name == name, operators.c.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    )
    return revoked.rowcount == 1
