"""Identities of nodes and clients, as they go over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from contract.enrolment import DAY_MS
from contract.requests import Id
from fleet.api.forms import Body

MAX_TTL_MS = 30 * DAY_MS
TtlS = Annotated[int, Meta(ge=1, le=MAX_TTL_MS // 1000)]


class NewToken(Body, frozen=True, kw_only=True):
    """The node that shall enrol."""

    node: Id
    ttl_s: TtlS = 1800


class NewClient(Body, frozen=True, kw_only=True):
    """The client that shall enrol, and what it may ask for; null is no limit."""

    client: Id
    ttl_s: TtlS = 1800
    requests_per_minute: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    tokens_per_day: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class EnrolmentToken(Struct, frozen=True):
    """What a device or client enrols with, once: the token, where, and the digest of the root that it must see."""

    token: str
    url: str
    ca_sha256: str


class ClientKey(Struct, frozen=True):
    """A client's key for HTTP, shown once: only its digest is stored."""

    key: str


class Revoked(Struct, frozen=True):
    """An identity is void. `told` says whether a broker knows it already; one that starts reads it."""

    told: bool
