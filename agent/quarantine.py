"""What is not run any more because engines died of it: requests, grammars, adapters. Pure: the clock is passed in.

- A *strike* is a fault of the engine (`Death.is_fault`: a crash, a hang; not SIGKILL, which is the kernel's or the
  operator's doing) while a request ran. An answer clears the strikes of its request.
- A request is quarantined at its second strike or a later one, if it ran alone then: in company another may be guilty.
- A grammar or adapter is quarantined when two different requests that used it have been.

Kept are digests, names and times, never texts.
"""

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from agent.engine.death import Death
from agent.errors import AgentError
from contract.errors import Refused
from contract.requests import Request
from contract.status import Status

STRIKES = 2
MIN_REQUESTS = 2  # of a grammar or adapter
MAX_ITEMS = 1000  # the oldest are let go: who can make so many has the node anyway
MAX_STRIKES = 1000  # requests whose strikes are remembered
SHOWN_DIGITS = 12
MIN_DIGITS = 6

Kind = Literal["request", "grammar", "adapter"]


class QuarantineError(AgentError):
    """Nothing, or more than one thing, is meant by an id."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in quarantine. `id` is a digest in hex, or the adapter's name; of a request also what it used."""

    kind: Kind
    id: str
    since_ms: int
    death: str
    grammar: str | None = None
    adapter: str | None = None

    @property
    def short_id(self) -> str:
        """Enough of the id for people."""
        return self.id if self.kind == "adapter" else self.id[:SHOWN_DIGITS]

    @property
    def since(self) -> str:
        """When it began."""
        return datetime.fromtimestamp(self.since_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parts_of(request: Request) -> dict[Kind, str]:
    """What of a request can be quarantined, by id."""
    parts: dict[Kind, str] = {"request": request.digest().hex()}
    if request.output_schema is not None:
        text = msgspec.json.encode(request.output_schema, order="deterministic")
        parts["grammar"] = hashlib.sha256(text).hexdigest()
    if isinstance(request.adapter, str):
        parts["adapter"] = request.adapter
    return parts


def implicated(items: Iterable[Item], kind: Literal["grammar", "adapter"], part_id: str) -> bool:
    """Whether so many quarantined requests used a grammar or adapter that it is to blame itself."""
    users = [item for item in items if item.kind == "request" and getattr(item, kind) == part_id]
    return len(users) >= MIN_REQUESTS


class Quarantine:
    """What is in quarantine, and the strikes of what is not yet.

    `on_condemned` is called with everything that comes into it. Strikes are forgotten at a restart.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        *,
        now_ms: Callable[[], int] = lambda: 0,
        on_condemned: Callable[[Item], None] = lambda _: None,
    ) -> None:
        self._items: dict[tuple[Kind, str], Item] = {(item.kind, item.id): item for item in items}
        self._strikes: dict[str, int] = {}
        self._now_ms = now_ms
        self._on_condemned = on_condemned

    @property
    def items(self) -> list[Item]:
        """Everything in quarantine, oldest first."""
        return list(self._items.values())

    def check(self, request: Request) -> None:
        """Whether a request may run.

        Raises:
            Refused: 500: it, its grammar or its adapter is in quarantine.
        """
        if not self._items:
            return
        for part in parts_of(request).items():
            if part in self._items:
                raise _refusal(self._items[part], request)

    def strike(self, request: Request, death: Death, *, alone: bool) -> None:
        """The engine died while this request ran."""
        if not death.is_fault:
            return
        parts = parts_of(request)
        digest = parts["request"]
        strikes = self._strikes[digest] = self._strikes.pop(digest, 0) + 1
        if strikes >= STRIKES and alone:
            del self._strikes[digest]
            self._condemn("request", digest, death, parts)
            for kind in ("grammar", "adapter"):
                if kind in parts and implicated(self._items.values(), kind, parts[kind]):
                    self._condemn(kind, parts[kind], death, {})
        elif len(self._strikes) > MAX_STRIKES:
            del self._strikes[next(iter(self._strikes))]

    def clear(self, request: Request) -> None:
        """The request was answered."""
        if self._strikes:
            self._strikes.pop(request.digest().hex(), None)

    def release(self, item_id: str | None) -> list[Item]:
        """Takes what an id, or its first digits, stands for out of quarantine, or everything; returns it.

        A grammar or adapter that comes out has a new chance: what was held against it is forgotten.

        Raises:
            QuarantineError: nothing has this id, or several have.
        """
        out = self.items if item_id is None else [self._find(item_id)]
        for item in out:
            del self._items[item.kind, item.id]
            if item.kind != "request":
                for key, other in self._items.items():
                    if getattr(other, item.kind) == item.id:
                        self._items[key] = msgspec.structs.replace(other, **{item.kind: None})
        return out

    def _condemn(self, kind: Kind, part_id: str, death: Death, parts: dict[Kind, str]) -> None:
        if (kind, part_id) in self._items:
            return
        item = Item(
            kind=kind,
            id=part_id,
            since_ms=self._now_ms(),
            death=death.value,
            grammar=parts.get("grammar"),
            adapter=parts.get("adapter"),
        )
        self._items[kind, part_id] = item
        if len(self._items) > MAX_ITEMS:
            del self._items[next(iter(self._items))]
        self._on_condemned(item)

    def _find(self, item_id: str) -> Item:
        known = self._items.values()
        found = [item for item in known if item.id == item_id]
        if not found and len(item_id) >= MIN_DIGITS:
            found = [item for item in known if item.id.startswith(item_id)]
        if len(found) != 1:
            why = f"{len(found)} have this id" if found else "nothing in quarantine has this id"
            raise QuarantineError(f"cannot release {item_id!r}: {why}; see `shoal-agent quarantine ls`")
        return found[0]


def _refusal(item: Item, request: Request) -> Refused:
    what = {"request": "this request", "grammar": "its schema", "adapter": f"adapter {item.id!r}"}[item.kind]
    return Refused(
        Status.ENGINE_FAILED,
        "quarantined",
        f"cannot answer: {what} is in quarantine since {item.since} because engines died of it; the node's operator "
        f"can end that with `shoal-agent quarantine release {item.short_id}`",
        request_id=request.id,
    )
