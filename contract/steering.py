"""What the controller says to nodes, and how nodes report back."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from contract.numbers import Count
from contract.requests import Id

Phase = Literal[
    "idle", "checking", "admitting", "fetching", "assembling", "gating", "switching", "confirmed", "rolled_back",
    "refused", "failed",
]  # fmt: skip


# A node says at least this often that it is there, give or take a tenth, so that a fleet does not speak all at once. It
# does so with its presence: a report is four times as long, and comes when the last one is not true any more.
HEARTBEAT_S = 300
HEARTBEAT_JITTER = 0.1

MAX_GROUPS = 64


class Signature(Struct, frozen=True):
    """One signature over the exact bytes of a signed document."""

    keyid: str
    sig: str


class Signed(Struct, frozen=True):
    """A signed document. `payload` is the document's JSON text; the signatures cover its UTF-8 bytes."""

    payload: str
    signatures: Annotated[list[Signature], Meta(min_length=1, max_length=16)]


class Desired(Struct, frozen=True, kw_only=True):
    """The payload of a node's signed desired state. A node refuses one for another node or an older revision."""

    node: str
    rev: Annotated[int, Meta(ge=1)]
    issued: int
    exp: int
    groups: Annotated[
        list[Id], Meta(max_length=MAX_GROUPS, description="Whose policies hold for the node; the controller decides.")
    ] = []
    model: str | None = None
    adapters: Annotated[
        list[str], Meta(description="`name@version`; the first answers requests that leave `adapter` out.")
    ] = []
    settings: dict[str, Any] = {}


class Policy(Struct, frozen=True, kw_only=True):
    """The payload of a group's signed policy: settings for many nodes; a node's own win."""

    group: str
    rev: Annotated[int, Meta(ge=1)]
    issued: int
    exp: int
    settings: dict[str, Any] = {}


class Quota(Struct, frozen=True, kw_only=True):
    """The payload of a client's signed quotas: what it may ask of each node; null is no limit."""

    client: str
    rev: Annotated[int, Meta(ge=1, description="Follows the time, so that nobody has to keep the last one.")]
    issued: int
    exp: int
    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_day: Annotated[int, Meta(ge=1)] | None = None


class Reported(Struct, frozen=True, kw_only=True):
    """How far a node is towards its desired state, and what is in force on it.

    A phase that is not an end is over, well or not, after `within_ms`. The node says this at each change and at each
    connection, and when the desired state that it follows comes again. A controller that at a heartbeat has heard of an
    older `rev`, or has not heard the last report, sends that.
    """

    rev: Count
    policies: Annotated[dict[str, Count], Meta(description="Revision of each group's policy that was taken in.")] = {}
    phase: Phase
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0
    within_ms: Count | None = None
    active: str | None = None
    adapters: list[str] = []
    settings: dict[str, Any] = {}
    last_good: str | None = None
    gate: dict[str, Any] | None = None
    error: str | None = None


class Command(Struct, frozen=True):
    """A one-shot action; what must converge is desired state instead."""

    id: str
    op: Annotated[str, Meta(max_length=64)]
    args: dict[str, Any]
    exp: int


class Event(Struct, frozen=True):
    """Something that happened on a node. The same `eid` twice is the same event."""

    eid: str
    ts: Count
    name: str
    data: dict[str, Any]


Cell = float | int | str | None


class Telemetry(Struct, frozen=True, kw_only=True):
    """Rows of measurements (docs/telemetry.md). `run` and `seq` name a batch: it is stored once, and a gap shows."""

    run: Annotated[Id, Meta(description="Made anew at each start of the agent.")]
    seq: Annotated[Count, Meta(description="Counts the batches of a kind in a run.")]
    ts: Count
    fields: list[str]
    rows: list[list[Cell]]


class Rollout(Struct, frozen=True):
    """Summary of a rollout, for pages."""

    id: str
    release: str
    state: str
    wave: int
    counts: dict[str, int]
    ts: int
