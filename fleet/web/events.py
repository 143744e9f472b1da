"""The fleet at a glance, again at each change, as server-sent events: what `fleet status --watch` shows."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from fleet.api.summary import Summary
from fleet.errors import FleetError
from fleet.inventory import Inventory
from fleet.web.endpoint import Call, Endpoint
from fleet.web.problem import Problem

MAX_STREAMS = 64
# A change seldom comes alone, and a large fleet changes all the time: all streams share one summary for so long.
PAUSE_S = 1.0
# Without a change something is said anyway, so that a connection that is gone is noticed.
STILL_HERE_S = 15.0


class Events:
    """Streams of summaries."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._making = asyncio.Lock()
        self._made_s = -PAUSE_S
        self._event = b""
        self._num_streams = 0

    def endpoints(self) -> list[Endpoint]:
        """The one endpoint."""
        return [
            Endpoint(
                method="GET", path="/v1/events", summary="The fleet at a glance, at each change", least="viewer",
                work=self.stream, answer=Summary, media_type="text/event-stream",
            )
        ]  # fmt: skip

    async def stream(self, call: Call) -> Response:
        """A stream, for as long as the sender stays and its token is good."""
        if self._num_streams >= MAX_STREAMS:
            what = f"cannot open more than {MAX_STREAMS} streams: close one, or ask `GET /v1/status`"
            raise Problem(429, "busy", what, headers={"Retry-After": "10"})
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(self._events(call), media_type="text/event-stream", headers=headers)

    async def _events(self, call: Call) -> AsyncIterator[bytes]:
        self._num_streams += 1
        changed = asyncio.get_running_loop().create_future()
        try:
            while True:
                changed.cancel()
                changed = asyncio.ensure_future(self._inventory.changed())
                yield await self._summary()
                await asyncio.sleep(PAUSE_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed, STILL_HERE_S)
                try:
                    await run_in_threadpool(call.again)
                except FleetError:
                    return
        finally:
            changed.cancel()
            self._num_streams -= 1

    async def _summary(self) -> bytes:
        async with self._making:
            if time.monotonic() - self._made_s >= PAUSE_S:
                summary = await run_in_threadpool(self._inventory.summary)
                self._event = b"event: status\ndata: " + msgspec.json.encode(summary) + b"\n\n"
                self._made_s = time.monotonic()
            return self._event
