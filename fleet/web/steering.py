"""Changing what nodes run, over HTTP: wishes, groups and their policies, commands."""

from msgspec import UnsetType

from fleet.api.forms import Nothing
from fleet.api.steering import (
    Awaited,
    CommandOutcome,
    Group,
    NewCommand,
    NewGroup,
    NewPolicy,
    NewWish,
    PolicyMade,
    Progress,
    WishChange,
    Wished,
    WishOfSome,
)
from fleet.errors import UsageError
from fleet.inventory import Inventory
from fleet.progress import progress_of
from fleet.rollouts import Rollouts
from fleet.steering import Steering
from fleet.web.endpoint import Call, Endpoint
from fleet.web.nodes import find

MAX_WISH_BYTES = 1024 * 1024  # ten thousand names


def endpoints(steering: Steering, rollouts: Rollouts, inventory: Inventory) -> list[Endpoint]:
    """What an operator changes."""

    def wish(call: Call) -> list[Wished]:
        wanted: NewWish = call.body
        match wanted.nodes, wanted.query:
            case list() as nodes, UnsetType():
                pass
            case UnsetType(), str() as query:
                nodes = [record.node for record in find(inventory, query)]
            case _:
                raise UsageError("cannot tell which nodes: give either nodes or a query")
        change = WishChange(settings=wanted.settings, model=wanted.model, adapters=wanted.adapters)
        return rollouts.wish(nodes, change, call.caller.name)

    def progress(call: Call) -> list[Progress]:
        wanted: Awaited = call.body
        return [
            progress_of(one.node, one.rev, inventory.reported(one.node), is_online=inventory.is_online(one.node))
            for one in wanted.wishes
        ]

    def save_group(call: Call) -> Nothing:
        wanted: NewGroup = call.body
        steering.save_group(call.path["group"], wanted.query, call.caller.name)
        return Nothing()

    def delete_group(call: Call) -> Nothing:
        steering.delete_group(call.path["group"], call.caller.name)
        return Nothing()

    def set_policy(call: Call) -> PolicyMade:
        wanted: NewPolicy = call.body
        return PolicyMade(steering.set_policy(call.path["group"], wanted.settings, call.caller.name))

    async def command(call: Call) -> CommandOutcome:
        wanted: NewCommand = call.body
        return await steering.command(
            call.path["node"], wanted.op, wanted.args, timeout_s=wanted.timeout_s, actor=call.caller.name
        )

    return [
        Endpoint(
            method="POST", path="/v1/wishes", summary="Wish something of nodes, also of those that are not there",
            least="operator", work=wish, body=WishOfSome, answer=list[Wished], max_bytes=MAX_WISH_BYTES,
        ),
        Endpoint(
            method="POST", path="/v1/progress", summary="How far nodes are with what was wished", least="viewer",
            work=progress, body=Awaited, answer=list[Progress], max_bytes=MAX_WISH_BYTES,
        ),
        Endpoint(
            method="GET", path="/v1/groups", summary="All groups", least="viewer",
            work=lambda _call: steering.groups(), answer=list[Group],
        ),
        Endpoint(
            method="PUT", path="/v1/groups/{group}", summary="Save a query as a group", least="operator",
            work=save_group, body=NewGroup, answer=Nothing,
        ),
        Endpoint(
            method="DELETE", path="/v1/groups/{group}", summary="Delete a group and its policy", least="operator",
            work=delete_group, answer=Nothing,
        ),
        Endpoint(
            method="PUT", path="/v1/groups/{group}/policy", summary="Settings for all nodes of a group",
            least="operator", work=set_policy, body=NewPolicy, answer=PolicyMade,
        ),
        Endpoint(
            method="POST", path="/v1/nodes/{node}/commands", summary="Have a node do something once, and wait for it",
            least="operator", work=command, body=NewCommand, answer=CommandOutcome,
        ),
    ]  # fmt: skip
