"""Streams of events: how many there may be."""

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from fleet.database.store import open_database
from fleet.inventory import Inventory
from fleet.roles import Caller
from fleet.web.endpoint import Call
from fleet.web.events import MAX_STREAMS, Events
from fleet.web.problem import Problem


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    """Those of an empty fleet."""
    database = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    yield Events(Inventory(database, lambda: 1_800_000_000_000))
    database.close()


def call() -> Call:
    """A request of somebody whose token is good."""
    caller = Caller("ann", "viewer")
    return Call(caller, {}, None, None, asyncio.Event().wait, lambda: caller)  # type: ignore[arg-type]


async def serve_and_leave(response: Response) -> None:
    """Serves a response to somebody who has left."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_message: MutableMapping[str, Any]) -> None:
        pass

    await response({"type": "http"}, receive, send)


def test_streams_that_begin_at_once_are_counted(events: Events) -> None:
    """Also before the first of them has sent anything; who leaves makes room for the next, each time."""

    async def open_many() -> None:
        for _ in range(2):
            opened = [await events.stream(call()) for _ in range(MAX_STREAMS)]
            with pytest.raises(Problem) as refused:
                await events.stream(call())
            assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "10"})
            for response in opened:
                await serve_and_leave(response)

    asyncio.run(open_many())
