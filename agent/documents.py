"""What the controller wishes, as far as this node has accepted it: its desired state, and its groups' policies.

A document is on disk, with the time that its date proves, before anything goes by it; so whatever happens, revisions
never go down. One that is delivered again, as retained ones are at each connection, is known by its bytes.
"""

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import structlog

from agent.desired import Wish
from agent.store.facts import Facts
from contract.settings import effective
from contract.signed import Accepted, Mark, Refusal, Time, Trust, verify
from contract.steering import Desired, Policy, Signed

log = structlog.get_logger()

MAX_REFUSALS = 64  # that are remembered, so that each is told of once

_DESIRED, _POLICY = msgspec.json.Decoder(Desired), msgspec.json.Decoder(Policy)


class _Kept(NamedTuple):
    """A document that was accepted, and the bytes it came in."""

    data: bytes
    mark: Mark
    document: Desired | Policy


class Documents:
    """The documents for one node."""

    def __init__(
        self,
        node: str,
        facts: Facts,
        *,
        trust: Callable[[], Trust],
        time: Callable[[], Time],
        learn_signed: Callable[[int], Awaitable[None]],
        on_refused: Callable[[dict[str, Any]], None],
    ) -> None:
        """`learn_signed` keeps the date of an accepted document as a floor of the time; `on_refused` hears of each
        refusal once, as the data of an event.
        """
        self._node = node
        self._facts = facts
        self._trust = trust
        self._time = time
        self._learn_signed = learn_signed
        self._on_refused = on_refused
        self._refused: deque[tuple[str, str, bytes]] = deque(maxlen=MAX_REFUSALS)
        self._kept: dict[str | None, _Kept] = {}  # by group; None: the desired state

    @property
    def groups(self) -> list[str]:
        """The groups of which the desired state says that this node is in them."""
        kept = self._recall(None)
        return kept.document.groups if kept and isinstance(kept.document, Desired) else []

    @property
    def is_whole(self) -> bool:
        """Whether the policies of all its groups are known."""
        return all(self._recall(group) for group in self.groups)

    @property
    def wish(self) -> Wish | None:
        """What all of them together ask for; None while there is no desired state."""
        kept = self._recall(None)
        if kept is None or not isinstance(desired := kept.document, Desired):
            return None
        policies = {group: kept.document for group in desired.groups if (kept := self._recall(group))}
        return Wish(
            rev=desired.rev,
            policies={group: policy.rev for group, policy in policies.items()},
            model=desired.model,
            adapters=desired.adapters,
            settings=effective({group: policy.settings for group, policy in policies.items()}, desired.settings),
        )

    def knows(self, data: bytes, group: str | None = None) -> bool:
        """Whether this is the document that was accepted last."""
        last = self._recall(group)
        return last is not None and last.data == data

    async def take(self, data: bytes, group: str | None = None) -> bool:
        """Takes a document, of a group or the node's own; returns whether it is accepted and new.

        Raises:
            StoreError: it is genuine, but cannot be kept, so nothing goes by it.
        """
        if self.knows(data, group):
            return False
        last = self._recall(group)
        mark, trust, time = last.mark if last else None, self._trust(), self._time()
        found: Accepted[Desired] | Accepted[Policy] | Refusal
        if group is None:
            found = verify(data, Desired, self._node, mark, trust, time)
        else:
            found = verify(data, Policy, group, mark, trust, time)
        if isinstance(found, Refusal):
            self._refuse(found, group, data)
            return False
        await self._learn_signed(found.document.issued)
        await self._facts.put(_fact(group), data.decode())
        self._kept[group] = _Kept(data, found.mark, found.document)
        return found.is_new

    def _recall(self, group: str | None) -> _Kept | None:
        """What was accepted last, in this run or an earlier one."""
        if group not in self._kept:
            text = self._facts.get(_fact(group))
            if text is None:
                return None
            payload = msgspec.json.decode(text, type=Signed).payload
            document = _DESIRED.decode(payload) if group is None else _POLICY.decode(payload)
            mark = Mark(document.rev, hashlib.sha256(payload.encode()).hexdigest())
            self._kept[group] = _Kept(text.encode(), mark, document)
        return self._kept[group]

    def _refuse(self, refusal: Refusal, group: str | None, data: bytes) -> None:
        key = (group or "", refusal.event, hashlib.sha256(data).digest())
        if key not in self._refused:
            self._refused.append(key)
            log.warning("document refused", group=group, refusal=refusal.event, why=refusal.reason)
            self._on_refused({"event": refusal.event, "reason": refusal.reason})


def _fact(group: str | None) -> str:
    return "desired" if group is None else f"policy:{group}"
