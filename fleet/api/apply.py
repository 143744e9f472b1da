"""A fleet as a file says it shall be, as it goes over HTTP."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from contract.requests import Id
from fleet.api.forms import Body
from fleet.api.nodes import QueryText
from fleet.api.rollouts import Release, Terms
from fleet.api.steering import PolicySettings

MAX_GROUPS = 500


class GroupFile(Body, frozen=True, kw_only=True):
    """What the nodes of a group shall be. What is left out stays as it is.

    `adapters` are all that shall be active. With `rollout`, a release that another one is in the place of comes in
    waves, on these terms; without, it is wished of all at once.
    """

    query: QueryText
    settings: PolicySettings | UnsetType = UNSET
    model: Release | UnsetType = UNSET
    adapters: Annotated[tuple[Release, ...], Meta(max_length=64)] | UnsetType = UNSET
    rollout: Terms | UnsetType = UNSET


class FleetFile(Body, frozen=True, kw_only=True):
    """The groups of a fleet. Groups that it does not name stay as they are."""

    groups: Annotated[dict[Id, GroupFile], Meta(max_length=MAX_GROUPS)]


class Change(Struct, frozen=True, kw_only=True):
    """One thing that is not as the file says.

    `waits` says why it is not done now: a rollout is under way, or one of this release was aborted. `nodes` are those
    that are concerned, for a group or a policy all of it.
    """

    group: str
    what: Literal["group", "policy", "model", "adapters", "rollout"]
    text: str
    nodes: list[str] = []
    waits: str | None = None
