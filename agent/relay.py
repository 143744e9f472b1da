"""Sends requests to neighbours and to the controller's cloud over MQTT, and hears what they answer.

Takes `Cleared` and nothing else, so that no prompt leaves that may not (agent/privacy.py). To a neighbour this node is
a client like any other, under its own id.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import structlog

from agent.privacy import Cleared, Peer, Way
from contract.answers import Accepted, Delta, Final
from contract.mqtt5 import Properties
from contract.requests import Cancel
from contract.topics import (
    AnswerDelta,
    AnswerFinal,
    CloudDelta,
    CloudFinal,
    CloudRequest,
    NodeCancel,
    NodeRequest,
    Topic,
)

log = structlog.get_logger()

Said = Accepted | Delta | Final

_FINAL = msgspec.json.Decoder(Final)
_DELTA = msgspec.json.Decoder(Delta)
_ACCEPTED = msgspec.json.Decoder(Accepted)


class NoWayError(Exception):
    """There is no connection, so nothing left."""


class Relay:
    """For one event loop."""

    def __init__(self, node: str, fleet: str, publish: Callable[..., "asyncio.Future[None] | None"]) -> None:
        self._node = node
        self._fleet = fleet
        self._publish = publish
        self._waiting: dict[str, asyncio.Queue[Said]] = {}

    @property
    def filters(self) -> list[str]:
        """What to subscribe to."""
        own = {kind: {"client": self._node} for kind in (AnswerDelta, AnswerFinal)}
        cloud = {kind: {"node": self._node} for kind in (CloudDelta, CloudFinal)}
        return [kind.filter(self._fleet, **ids) for kind, ids in (own | cloud).items()]

    def hear(self, topic: AnswerDelta | AnswerFinal | CloudDelta | CloudFinal, payload: bytes) -> None:
        """Somebody answers. What nobody waits for any more is left out."""
        waiting = self._waiting.get(topic.id)
        if waiting is None:
            return
        try:
            waiting.put_nowait(_decode(topic, payload))
        except msgspec.MsgspecError as error:
            log.warning("cannot read an answer to what was handed on", why=str(error))

    async def ask(self, cleared: Cleared, until_s: float) -> AsyncGenerator[Said, None]:
        """Sends a request and gives what comes back, up to the final, or up to `until_s` of the loop's clock.

        Left early, whoever has it is told to stop.

        Raises:
            NoWayError: there is no connection.
            TimeoutError: no final came.
        """
        loop, request = asyncio.get_running_loop(), cleared.request
        request_id = request.id or ""
        heard = self._waiting[request_id] = asyncio.Queue()
        ended = False
        try:
            # What waits at the broker for a node that is away must not be answered when nobody waits for it.
            expiry_s = max(1, round(until_s - loop.time()))
            topic = _topic(cleared.way, self._node).path(self._fleet)
            payload, properties = msgspec.json.encode(request), Properties(expiry_s=expiry_s)
            if self._publish(topic, payload, qos=1, properties=properties) is None:
                ended = True
                raise NoWayError
            log.info("handed on", to=topic, why=request.handed and request.handed.why, sha256=cleared.sha256,
                     privacy=request.privacy, redacted=cleared.redacted)  # fmt: skip
            while not ended:
                async with asyncio.timeout_at(until_s):
                    said = await heard.get()
                ended = isinstance(said, Final)
                yield said
        finally:
            del self._waiting[request_id]
            if not ended and isinstance(cleared.way, Peer):
                stop = NodeCancel(cleared.way.node, self._node).path(self._fleet)
                self._publish(stop, msgspec.json.encode(Cancel(request_id)), qos=1)


def _topic(way: Way, node: str) -> Topic:
    return NodeRequest(way.node, node) if isinstance(way, Peer) else CloudRequest(node)


def _decode(topic: Topic, payload: bytes) -> Any:
    if isinstance(topic, AnswerFinal | CloudFinal):
        return _FINAL.decode(payload)
    try:
        return _DELTA.decode(payload)
    except msgspec.ValidationError:  # a delta's number begins at 1
        return _ACCEPTED.decode(payload)
