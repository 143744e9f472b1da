"""What left for clouds, over HTTP."""

from fleet.api.cloud import Left, LeftFilter
from fleet.database.cloud import read_left
from fleet.database.store import Database
from fleet.web.endpoint import Call, Endpoint


def endpoints(database: Database) -> list[Endpoint]:
    """Reading what left, why, and what it cost."""

    def read(call: Call) -> list[Left]:
        with database.read() as connection:
            return read_left(connection, call.query)

    return [
        Endpoint(
            method="GET", path="/v1/cloud/audit", summary="What left for clouds, the newest first", least="viewer",
            work=read, query=LeftFilter, answer=list[Left],
        )
    ]  # fmt: skip
