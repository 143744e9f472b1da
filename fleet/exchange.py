"""One request and its answer over a link: publish, retry, wait, cancel. Commands only show what comes out.

Invariants:
- The answer topics are subscribed before the request is published.
- The same id is published again after 1, 2 and 4 seconds while nothing at all came back; never afterwards.
- It ends with a final, or with an error once the deadline has passed. Left early, the request is cancelled.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from contract.answers import Accepted, Delta, Final
from contract.mqtt5 import VERSION, Properties
from contract.presence import NodeState
from contract.requests import Cancel, Request
from contract.status import MEANINGS, Status
from contract.topics import (
    AnswerDelta,
    AnswerFinal,
    NodeCancel,
    NodeRequest,
    NodeStatus,
    PoolCancel,
    PoolRequest,
)
from fleet.errors import AnswerError, BrokerError, RefusedError, UnreachableError
from fleet.link import Incoming
from fleet.question import encode_request
from fleet.retries import retry_delays_s

# The node's own 408 leaves it at the deadline and needs a moment to arrive.
GRACE_S = 2.0
# Retained messages follow the subscription's acknowledgement; nothing marks their end.
STATUS_WITHIN_S = 0.3
ACK_S = 2.0


@dataclass(frozen=True)
class Answer:
    """Something the node said: its acceptance, a piece, or the final; with the bytes it said it in."""

    message: Accepted | Delta | Final
    raw: bytes


@dataclass(frozen=True)
class Notice:
    """A reason why the answer may take long or not come."""

    text: str


class Line(Protocol):
    """What an exchange needs of a link."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""

    def subscribe(self, filters: dict[str, int]) -> None:
        """Subscribes to filters, each with its QoS."""

    def publish(
        self, topic: str, payload: bytes, *, properties: Properties | None = None, timeout_s: float = ACK_S
    ) -> bool:
        """Publishes, and says whether somebody subscribes to the topic as far as the broker tells."""

    def next(self, timeout_s: float) -> Incoming | None:
        """The next message, or None when none arrives in time."""


class Exchange:
    """Asks once. Iterate over it until it ends, then close it; `contextlib.closing` does that."""

    def __init__(
        self,
        link: Line,
        fleet: str,
        to: NodeRequest | PoolRequest,
        request: Request,
        *,
        rng: Callable[[], float] = random.random,
    ) -> None:
        if request.id is None or request.ttl_ms is None:
            raise ValueError("an exchange needs a request with an id and a ttl_ms")
        self._link = link
        self._fleet = fleet
        self._to = to
        self._request = request
        self._id = request.id
        self._ttl_s = request.ttl_ms / 1000
        self._delta_topic = AnswerDelta(to.client, self._id).path(fleet)
        self._final_topic = AnswerFinal(to.client, self._id).path(fleet)
        self._status_topic = NodeStatus(to.node).path(fleet) if isinstance(to, NodeRequest) else None
        self._deadline = 0.0
        self._timers: dict[str, float] = {}
        self._delays_s = retry_delays_s(rng)
        self._published = False
        self._heard = False
        self._ended = False

    def __iter__(self) -> Iterator[Answer | Notice]:
        """What comes back, in order of arrival, up to the final.

        Raises:
            AnswerError: there is no answer by the deadline, or it cannot be read.
            BrokerError: the broker refuses the request, or is not there at the deadline.
        """
        self._link.subscribe({self._delta_topic: 0, self._final_topic: 1})
        self._deadline = time.monotonic() + self._ttl_s
        if self._status_topic is not None:
            self._subscribe_status(self._status_topic)
        someone_listens = self._publish()
        if self._status_topic is None and not someone_listens:
            yield Notice(f"{self._whom} has no member at this broker; waiting for one until the deadline")
        give_up = self._deadline + GRACE_S
        while not self._ended:
            now = time.monotonic()
            if now >= give_up:
                raise self._no_answer()
            name, due = min(self._timers.items(), key=lambda timer: timer[1], default=("", give_up))
            # What has already arrived goes before a timer, which may be late because a publication took long.
            incoming = self._link.next(min(due, give_up) - now)
            if incoming is not None:
                yield from self._on_message(incoming)
            elif name and time.monotonic() >= due:
                del self._timers[name]
                yield from self._on_timer(name)

    def close(self) -> None:
        """Cancels the request when its answer is still to come, as far as the broker is there."""
        if not self._published or self._ended:
            return
        self._ended = True
        to = self._to
        to_cancel = NodeCancel(to.node, to.client) if isinstance(to, NodeRequest) else PoolCancel(to.pool, to.client)
        # When the broker is gone, the request ends at its deadline instead.
        with contextlib.suppress(BrokerError):
            payload = msgspec.json.encode(Cancel(self._id))
            self._link.publish(to_cancel.path(self._fleet), payload, timeout_s=ACK_S)

    def _subscribe_status(self, topic: str) -> None:
        # Whoever may ask a node need not have the right to see its status.
        with contextlib.suppress(RefusedError):
            self._link.subscribe({topic: 1})
            self._timers["status"] = time.monotonic() + STATUS_WITHIN_S

    def _publish(self) -> bool:
        """Publishes the request with the time that is left, and sets the timer for the next retry."""
        left_s = self._deadline - time.monotonic()
        request = msgspec.structs.replace(self._request, ttl_ms=math.ceil(left_s * 1000))
        properties = Properties(correlation=self._id.encode(), expiry_s=math.ceil(left_s), user=(("shoal-v", VERSION),))
        self._published = True
        someone_listens = self._link.publish(
            self._to.path(self._fleet),
            encode_request(request),
            properties=properties,
            timeout_s=max(left_s, ACK_S),
        )
        if (delay_s := next(self._delays_s, None)) is not None:
            self._timers["retry"] = time.monotonic() + delay_s
        return someone_listens

    def _on_timer(self, name: str) -> Iterator[Notice]:
        if name == "retry" and time.monotonic() < self._deadline:
            self._publish()
        if name == "status" and self._link.connected:
            where = f"to this broker (fleet {self._fleet!r})"
            yield Notice(f"{self._whom} never reported {where}; waiting for it until the deadline")

    def _on_message(self, incoming: Incoming) -> Iterator[Answer | Notice]:
        if incoming.topic == self._status_topic:
            self._timers.pop("status", None)
            yield from self._notice(incoming.payload)
            return
        answer = self._read(incoming)
        if answer is None:
            return
        self._heard = True
        self._timers.pop("retry", None)
        self._timers.pop("status", None)
        self._ended = isinstance(answer.message, Final)
        yield answer

    def _notice(self, status: bytes) -> Iterator[Notice]:
        try:
            state = msgspec.json.decode(status, type=NodeState).s
        except msgspec.MsgspecError:
            return
        if state in ("lost", "offline"):
            yield Notice(f"{self._whom} is {state}; waiting for it until the deadline")

    def _read(self, incoming: Incoming) -> Answer | None:
        raw = incoming.payload
        if incoming.topic == self._final_topic:
            try:
                return Answer(msgspec.json.decode(raw, type=Final), raw)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._ended = True
                # msgspec names types and fields, never values.
                raise AnswerError(
                    f"cannot read the answer of {self._whom}: {error}; its version may not fit this one"
                ) from None
        if incoming.topic == self._delta_topic:
            # One that cannot be read is as good as lost: the final repairs it.
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, AttributeError):
                fields = msgspec.json.decode(raw)
                kind: type[Delta | Accepted] = Delta if fields.get("seq") else Accepted
                return Answer(msgspec.convert(fields, kind), raw)
        return None

    def _no_answer(self) -> AnswerError | UnreachableError:
        what = f"cannot get an answer from {self._whom} within {self._ttl_s:g} s"
        if not self._link.connected:
            return UnreachableError(f"{what}: the connection to the broker is lost; start the broker and ask again")
        why = "it accepted the request and did not finish" if self._heard else "nothing came back"
        return AnswerError(f"{what}: {why}; look at `fleet status`, or allow more time with --ttl")

    @property
    def _whom(self) -> str:
        to = self._to
        return f"node {to.node!r}" if isinstance(to, NodeRequest) else f"pool {to.pool!r}"


def failure_sentence(final: Final) -> str:
    """One sentence for a final that is no answer."""
    known = final.status in MEANINGS
    what = final.error.message if final.error else MEANINGS[Status(final.status)] if known else "no reason given"
    again_ms = final.error.retry_after_ms if final.error else None
    advice = f"; try again in {again_ms / 1000:g} s" if again_ms else ""
    return f"{what} (status {final.status}{advice})"
