"""The fleet at a glance, as it goes over HTTP."""

from msgspec import Struct


class Unwell(Struct, frozen=True):
    """A node that is not well, with the root as far as it is known."""

    node: str
    state: str
    seen_ms: int | None
    cause: str | None
    summary: str


class Rolling(Struct, frozen=True):
    """A rollout that is under way; `waits` says for what."""

    id: str
    release: str
    phase: str
    wave: int
    counts: dict[str, int]
    waits: str


class Summary(Struct, frozen=True, kw_only=True):
    """The fleet at one moment. Its data are as old as `heard_ms`, when the last message came.

    Who is revoked and away is counted in `num_revoked` and nowhere else. Who has not enrolled yet is no fault.
    """

    at_ms: int
    heard_ms: int | None
    num_nodes: int
    states: dict[str, int]
    num_never_came: int
    never_came: list[str]  # the first of them
    num_unwell: int
    worst: list[Unwell]
    num_gaps: int
    num_revoked: int = 0
    num_not_enrolled: int = 0
    not_enrolled: list[str] = []  # the first of them
    num_bad_messages: int
    broker_down_s: float | None
    rollouts: list[Rolling] = []
    is_stored: bool  # whether the database takes what comes
