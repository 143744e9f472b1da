"""The fleet at a glance, as it goes over HTTP."""

from msgspec import Struct


class Unwell(Struct, frozen=True):
    """A node that is not well, with the root as far as it is known."""

    node: str
    state: str
    seen_ms: int | None
    cause: str | None
    summary: str


class Summary(Struct, frozen=True, kw_only=True):
    """The fleet at one moment. Its data are as old as `heard_ms`, when the last message came."""

    at_ms: int
    heard_ms: int | None
    num_nodes: int
    states: dict[str, int]
    num_never_came: int
    never_came: list[str]  # the first of them
    num_unwell: int
    worst: list[Unwell]
    num_gaps: int
    num_bad_messages: int
    broker_down_s: float | None
    is_stored: bool  # whether the database takes what comes
