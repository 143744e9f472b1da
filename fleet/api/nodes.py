"""Nodes, as they go over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from contract.ids import END
from contract.presence import Card
from contract.steering import Desired, Event, Reported
from contract.telemetry import InferRow, SysRow
from fleet.api.forms import Parameters
from fleet.causes import Cause
from fleet.evidence import Evidence
from fleet.fields import FIELDS, Record

MAX_PAGE = 1000

# What is longer, or has control characters (a database may not hold them), is no query in any case.
QueryText = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]
# The schema says which fields there are; who names another gets a sentence.
Sort = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=100,
        extra_json_schema={"pattern": rf"^-?({'|'.join(FIELDS)}|label\.[a-z0-9_.-]+){END}"},
    ),
]


class NodeFilter(Parameters, frozen=True, kw_only=True):
    """Which nodes, in which order, and which part of them. `sort` is a field; behind a `-` it goes downwards."""

    query: QueryText | None = None
    sort: Sort = "node"
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100


class NodePage(Struct, frozen=True):
    """A part of the nodes that fit, of which there are `num_nodes`. What is known is as old as `heard_ms`."""

    at_ms: int
    heard_ms: int | None
    num_nodes: int
    nodes: list[Record]


class Why(Struct, frozen=True):
    """Why a node is not well, the root first; no causes when it is. `evidence` is what that goes by."""

    node: str
    at_ms: int
    causes: list[Cause]
    evidence: Evidence


class SeenEvent(Struct, frozen=True):
    """An event, and when it came."""

    at_ms: int
    kind: str
    event: Event


class Detail(Struct, frozen=True, kw_only=True):
    """All that is known of a node. `infer` is the last hour, folded into one row."""

    record: Record
    card: Card | None = None
    reported: Reported | None = None
    reported_ms: int | None = None
    desired: Desired | None = None
    gaps: dict[str, int] = {}
    events: list[SeenEvent] = []
    sys: SysRow | None = None
    sys_ms: int | None = None
    infer: InferRow | None = None
    rollout: str | None = None  # which holds it
