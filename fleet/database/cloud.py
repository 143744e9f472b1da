"""What the database knows of clouds: what was spent, and what left. Each is a part of its caller's transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from fleet.api.cloud import Left, LeftFilter
from fleet.database.tables import cloud_audit, cloud_spent


def add_within(
    connection: Connection, spender: str, day: int, tokens: int, nano: int, limits: tuple[int | None, int | None]
) -> bool:
    """Counts tokens and money for a spender, if no limit is passed by it.

    One conditional statement on one row, so of any number at once none passes a limit.

    Returns:
        Whether it was counted.
    """
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    empty = make(cloud_spent).values(spender=spender, day=day, tokens=0, nano=0)
    connection.execute(empty.on_conflict_do_nothing())
    fits = update(cloud_spent).where(cloud_spent.c.spender == spender, cloud_spent.c.day == day)
    for column, more, limit in ((cloud_spent.c.tokens, tokens, limits[0]), (cloud_spent.c.nano, nano, limits[1])):
        if limit is not None:
            fits = fits.where(column + more <= limit)
    values = {"tokens": cloud_spent.c.tokens + tokens, "nano": cloud_spent.c.nano + nano}
    return connection.execute(fits.values(values)).rowcount == 1


def correct(connection: Connection, spender: str, day: int, tokens: int, nano: int) -> None:
    """Counts more or less for a spender, whatever the limits."""
    row = update(cloud_spent).where(cloud_spent.c.spender == spender, cloud_spent.c.day == day)
    connection.execute(row.values(tokens=cloud_spent.c.tokens + tokens, nano=cloud_spent.c.nano + nano))


def spent_on(connection: Connection, day: int) -> dict[str, tuple[int, int]]:
    """Tokens and money of a day, by spender."""
    rows = connection.execute(select(cloud_spent).where(cloud_spent.c.day == day))
    return {row.spender: (row.tokens, row.nano) for row in rows}


def forget_before(connection: Connection, day: int) -> None:
    """Forgets what was spent on earlier days: the audit has it too."""
    connection.execute(delete(cloud_spent).where(cloud_spent.c.day < day))


def write_left(connection: Connection, values: Mapping[str, Any]) -> int:
    """Writes down what is about to leave; returns its number."""
    return int(connection.execute(insert(cloud_audit).values(**values).returning(cloud_audit.c.number)).scalar_one())


def complete_left(connection: Connection, number: int, values: Mapping[str, Any]) -> None:
    """Writes down what came of it."""
    connection.execute(update(cloud_audit).where(cloud_audit.c.number == number).values(**values))


def answered_since(connection: Connection, since_ms: int) -> tuple[int, int]:
    """How many answers came from clouds, and what they cost."""
    query = select(func.count(), func.coalesce(func.sum(cloud_audit.c.nano), 0)).where(
        cloud_audit.c.at_ms >= since_ms, cloud_audit.c.outcome == "answered"
    )
    number, nano = connection.execute(query).one()
    return int(number), int(nano)


def read_left(connection: Connection, wanted: LeftFilter) -> list[Left]:
    """What left, the newest first."""
    found = select(cloud_audit).order_by(cloud_audit.c.number.desc()).limit(wanted.limit)
    if wanted.before is not None:
        found = found.where(cloud_audit.c.number < wanted.before)
    for name in ("node", "client", "provider"):
        if (value := getattr(wanted, name)) is not None:
            found = found.where(cloud_audit.c[name] == value)
    return [Left(*row) for row in connection.execute(found)]
