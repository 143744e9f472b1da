"""Reading the audit. Writing is a part of each transaction that changes something: `identities.write_audit`."""

from sqlalchemy import Connection, select

from fleet.api.audit import AuditFilter, Entry
from fleet.database.tables import audit


def read_audit(connection: Connection, wanted: AuditFilter) -> list[Entry]:
    """The entries that are wanted, the newest first."""
    found = select(audit).order_by(audit.c.number.desc()).limit(wanted.limit)
    if wanted.before is not None:
        found = found.where(audit.c.number < wanted.before)
    equal = ((audit.c.actor, wanted.actor), (audit.c.action, wanted.action), (audit.c.subject, wanted.subject))
    for column, value in equal:
        if value is not None:
            found = found.where(column == value)
    return [Entry(*row) for row in connection.execute(found)]
