"""Telemetry, as it goes over HTTP."""

from typing import Annotated, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from contract.telemetry import InferRow, SysRow
from fleet.api.forms import Parameters
from fleet.api.nodes import QueryText

Metric = Literal["first_token_ms", "token_ms"]
Row = TypeVar("Row", SysRow, InferRow)
TimeMs = Annotated[int, Meta(ge=0, le=2**53, description="ms since 1970.")]


class Reading(Struct, Generic[Row], frozen=True):
    """A row, and the time that it is about (ms since 1970)."""

    at_ms: int
    row: Row


class Span(Parameters, frozen=True, kw_only=True):
    """A span of time, by default the last hour, and how many rows of it, the newest first."""

    since_ms: TimeMs | None = None
    until_ms: TimeMs | None = None
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500


class LatencyFilter(Parameters, frozen=True, kw_only=True):
    """Of which nodes and when, by default all and the last hour."""

    metric: Metric = "first_token_ms"
    query: QueryText | None = None
    since_ms: TimeMs | None = None
    until_ms: TimeMs | None = None


class Latency(Struct, frozen=True):
    """Quantiles within 1 % of exact, in ms, of `num_values` requests."""

    num_values: int
    p50: float
    p95: float
    p99: float
