"""The audit over HTTP."""

from fleet.api.audit import AuditFilter, Entry
from fleet.database.audit import read_audit
from fleet.database.store import Database
from fleet.web.endpoint import Call, Endpoint


def endpoints(database: Database) -> list[Endpoint]:
    """Reading what was changed, and by whom."""

    def read(call: Call) -> list[Entry]:
        with database.read() as connection:
            return read_audit(connection, call.query)

    return [
        Endpoint(
            method="GET", path="/v1/audit", summary="What was changed, the newest first", least="viewer",
            work=read, query=AuditFilter, answer=list[Entry],
        )
    ]  # fmt: skip
