"""The cloud over MQTT, for nodes that have no other way out: requests come in on a topic, answers go out on others.

The same request twice, of a broker or a node that is not sure, is asked once: while it runs nothing more happens, and
for a while after its end the same final is said again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from contract.answers import Delta, Final, failure_of
from contract.errors import Refused
from contract.ids import new_request_id
from contract.requests import Request
from contract.status import Status
from contract.topics import CloudDelta, CloudFinal, Topic
from fleet.cloud.ledger import Asker
from fleet.cloud.lender import Lender
from fleet.cloud.speech import read_handed, speak

MAX_KEPT = 1000
# More than so many at once would wait for each other; a node that is refused answers by itself.
MAX_RUNNING = 256


class Desk:
    """Takes requests from any thread, and answers them in its loop."""

    def __init__(self, lender: Lender, post: Callable[[Topic, bytes], object], now_ms: Callable[[], int]) -> None:
        self._lender = lender
        self._post = post
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._ended: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def take(self, node: str, payload: bytes) -> None:
        """A node sent this."""
        self._loop.call_soon_threadsafe(self._begin, node, payload)

    async def end(self) -> None:
        """Stops what runs; nodes answer by themselves when nothing comes."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _begin(self, node: str, payload: bytes) -> None:
        try:
            request = read_handed(payload)
            key = node, request.id or ""
            if key in self._ended:
                self._post(CloudFinal(*key), self._ended[key])
                return
            if key in self._running:
                return
            if len(self._running) >= MAX_RUNNING:
                raise Refused(
                    Status.BUSY, "busy", "cannot ask a cloud: too many are asking", retry_after_ms=1000,
                    request_id=request.id,
                )  # fmt: skip
        except Refused as no:
            final = Final(id=no.request_id or new_request_id(), status=no.status, error=failure_of(no))
            self._post(CloudFinal(node, final.id), msgspec.json.encode(final))
            return
        client = request.handed.client if request.handed else ""
        answer = self._answer(Asker(node, client), request)
        task = self._running[key] = self._loop.create_task(answer)
        task.add_done_callback(lambda _: self._running.pop(key))

    async def _answer(self, asker: Asker, request: Request) -> None:
        key = asker.node, request.id or ""
        async with aclosing(speak(self._lender, asker, request, self._now_ms())) as saying:
            async for said in saying:
                payload = msgspec.json.encode(said)
                if isinstance(said, Delta):
                    self._post(CloudDelta(*key), payload)
                else:
                    self._ended[key] = payload
                    self._post(CloudFinal(*key), payload)
        while len(self._ended) > MAX_KEPT:
            self._ended.popitem(last=False)
