"""Operators, as they go over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from contract.requests import Id
from fleet.api.forms import Body
from fleet.roles import Role


class NewOperator(Body, frozen=True, kw_only=True):
    """Who shall get a token; without `ttl_s` it lives until it is revoked."""

    name: Id
    role: Role
    ttl_s: Annotated[int, Meta(ge=1, le=10 * 366 * 86_400)] | None = None


class OperatorToken(Struct, frozen=True):
    """A token, shown once: only its digest is stored."""

    token: str
