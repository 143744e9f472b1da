"""What operators change, as it goes over HTTP: wishes, groups, commands."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from contract.requests import Id, Reference
from fleet.api.forms import Body
from fleet.api.nodes import QueryText

MAX_NODES = 10_000
MAX_ASKED = 1000

Op = Literal["restart-engine", "selftest", "drain", "undrain", "logs"]
MAX_TIMEOUT_S = 600.0
Settings = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=64)], Any], Meta(max_length=64)]


class WishChange(Struct, frozen=True, kw_only=True):
    """What becomes different. UNSET stays as it is; None goes back to the node's own configuration."""

    settings: dict[str, Any] = {}
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    adapters: list[str] | msgspec.UnsetType = msgspec.UNSET


class NewWish(Body, frozen=True, kw_only=True):
    """What nodes are to be, named one by one or by a query. What is left out stays; null is the node's own."""

    nodes: Annotated[list[Id], Meta(min_length=1, max_length=MAX_NODES)] | None = None
    query: QueryText | None = None
    settings: Settings = msgspec.field(default_factory=dict)
    model: Reference | msgspec.UnsetType | None = msgspec.UNSET
    adapters: Annotated[list[Reference], Meta(max_length=256)] | msgspec.UnsetType = msgspec.UNSET


class Wished(Struct, frozen=True):
    """The revision that says what a node is to be; `is_new` when it had to be made."""

    node: str
    rev: int
    is_new: bool


class Waiting(Struct, frozen=True):
    """A revision of a node that somebody waits for."""

    node: Id
    rev: Annotated[int, Meta(ge=1, le=2**53)]


class Awaited(Body, frozen=True, kw_only=True):
    """Of which wishes one wants to know how far they are."""

    wishes: Annotated[list[Waiting], Meta(min_length=1, max_length=MAX_ASKED)]


class Progress(Struct, frozen=True, kw_only=True):
    """How far a wish is. waiting: the node is not there, and gets it when it comes."""

    node: str
    rev: int
    state: Literal["done", "working", "waiting", "failed"]
    phase: str | None = None
    progress: float = 0.0
    error: str | None = None


class Group(Struct, frozen=True):
    """A group as people see it. `rev` and `settings` are those of its policy; None: it has none."""

    name: str
    query: str
    rev: int | None = None
    settings: dict[str, Any] | None = None
    num_nodes: int = 0


class NewGroup(Body, frozen=True, kw_only=True):
    """The query that says who is in a group."""

    query: QueryText


class NewPolicy(Body, frozen=True, kw_only=True):
    """Settings for all nodes of a group; a node's own win."""

    settings: Settings


class PolicyMade(Struct, frozen=True):
    """The policy's revision."""

    rev: int


class NewCommand(Body, frozen=True, kw_only=True):
    """What a node shall do once, and for how long its answer is waited for."""

    op: Op
    args: Annotated[dict[str, Any], Meta(max_length=16)] = msgspec.field(default_factory=dict)
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_S)] = 30.0


class CommandOutcome(Struct, frozen=True, kw_only=True):
    """How a command ended.

    offline: the node is not there, so nothing was sent. late: no answer came in time; the node may have done it, but
    does not begin with it any more.
    """

    id: str
    node: str
    op: str
    outcome: Literal["done", "failed", "offline", "late"]
    status: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
