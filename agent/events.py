"""Events: what happened on this node, through the outbox, so that none is lost while the broker is away."""

import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec

from agent.post import Post
from agent.store.outbox import Letter, Priority
from contract import topics
from contract.steering import Event

Kind = Literal["alert", "audit", "cmd"]


class Events:
    """Makes and sends them."""

    def __init__(
        self,
        node: str,
        fleet: str,
        post: Post,
        *,
        now_ms: Callable[[], int],
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._node = node
        self._fleet = fleet
        self._post = post
        self._now_ms = now_ms
        self._background = background

    def alert(self, name: str, data: dict[str, Any]) -> None:
        """Something that an operator should hear of."""
        self._background(self._post.write(self.letter("alert", name, data)))

    def audit(self, name: str, data: dict[str, Any]) -> None:
        """Something that was changed on purpose."""
        self._background(self._post.write(self.letter("audit", name, data)))

    def letter(self, kind: Kind, name: str, data: dict[str, Any]) -> Letter:
        """An event as it goes into the outbox."""
        event = Event(eid=uuid.uuid4().hex, ts=self._now_ms(), name=name, data=data)
        topic = topics.NodeEvent(self._node, kind).path(self._fleet)
        return Letter(topic, msgspec.json.encode(event), priority=Priority.EVENT)
