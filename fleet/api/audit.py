"""The audit, as it goes over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from fleet.api.forms import Parameters

Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


class AuditFilter(Parameters, frozen=True, kw_only=True):
    """Which entries: the newest before a number, by whom, what, and about what."""

    before: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    actor: Word | None = None
    action: Word | None = None
    subject: Word | None = None


class Entry(Struct, frozen=True):
    """Something that somebody changed. `number` counts up; not every number is there."""

    number: int
    at_ms: int
    actor: str
    action: str
    subject: str
    detail: str
