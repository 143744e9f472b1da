"""What left for clouds, as it goes over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from contract.requests import Id
from fleet.api.forms import Parameters


class LeftFilter(Parameters, frozen=True, kw_only=True):
    """Which of what left: the newest before a number, of a node, of a client, to a provider."""

    before: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    node: Id | None = None
    client: Id | None = None
    provider: Id | None = None


class Left(Struct, frozen=True):
    """Something that left for a provider. `outcome` is `sent` while nothing came back; money in billionths."""

    number: int
    at_ms: int
    node: str
    client: str
    request: str
    why: str
    privacy: str
    provider: str
    model: str
    bytes: int
    sha256: str
    outcome: str
    prompt_tokens: int | None
    completion_tokens: int | None
    nano: int | None
