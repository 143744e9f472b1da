"""Who may do what over HTTP. Pure.

A viewer looks. An operator also changes what nodes run, and asks them. An admin also decides who is one. A client is no
operator: an application that asks nodes, within its quotas.
"""

from typing import Literal, get_args

from msgspec import Struct

Role = Literal["viewer", "operator", "admin"]
CLIENT = "client"
LADDER: tuple[Role, ...] = get_args(Role)


class Operator(Struct, frozen=True):
    """A person or program with a token. Times are ms since 1970; without `expires_ms` the token lives on."""

    name: str
    role: Role
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None


class Caller(Struct, frozen=True):
    """Who sent a request: an operator with a role, or a client."""

    name: str
    role: Role | Literal["client"]


def may(caller: Caller, least: Role, *, clients: bool = False) -> bool:
    """Whether somebody may do what operators from `least` on may do, and clients if `clients`."""
    if caller.role == CLIENT:
        return clients
    return LADDER.index(caller.role) >= LADDER.index(least)
