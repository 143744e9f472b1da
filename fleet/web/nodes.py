"""The fleet and its nodes over HTTP: what is known, and why a node is not well."""

from collections.abc import Callable, Iterable
from typing import Any

from fleet.api.nodes import Detail, NodeFilter, NodePage, Why
from fleet.api.summary import Summary
from fleet.causes import causes
from fleet.errors import NotFoundError, UsageError
from fleet.fields import FIELDS, Record, kind_of, values_of
from fleet.inventory import Inventory
from fleet.query import parse
from fleet.web.endpoint import Call, Endpoint


def endpoints(inventory: Inventory, now_ms: Callable[[], int]) -> list[Endpoint]:
    """What a viewer sees."""

    def page(call: Call) -> NodePage:
        wanted: NodeFilter = call.query
        found = find(inventory, wanted.query)
        ordered = in_order(found, wanted.sort, now_ms())
        part = ordered[wanted.offset : wanted.offset + wanted.limit]
        return NodePage(now_ms(), inventory.heard_ms, len(found), part)

    def detail(call: Call) -> Detail:
        found = inventory.detail(call.path["node"])
        if found is None:
            raise unknown_node(call.path["node"])
        return found

    def why(call: Call) -> Why:
        node = call.path["node"]
        if not inventory.knows(node):
            raise unknown_node(node)
        evidence = inventory.evidence(node)
        return Why(node, now_ms(), causes(evidence), evidence)

    return [
        Endpoint(
            method="GET", path="/v1/status", summary="The fleet at a glance", least="viewer",
            work=lambda _call: inventory.summary(), answer=Summary,
        ),
        Endpoint(
            method="GET", path="/v1/nodes", summary="The nodes that fit a query", least="viewer",
            work=page, query=NodeFilter, answer=NodePage,
        ),
        Endpoint(
            method="GET", path="/v1/nodes/{node}", summary="All that is known of a node", least="viewer",
            work=detail, answer=Detail,
        ),
        Endpoint(
            method="GET", path="/v1/nodes/{node}/why", summary="Why a node is not well, the root first", least="viewer",
            work=why, answer=Why,
        ),
    ]  # fmt: skip


def find(inventory: Inventory, query: str | None) -> list[Record]:
    """The nodes that fit, all without a query.

    Raises:
        UsageError: it is no query.
    """
    return inventory.records() if query is None else inventory.find(parse(query, inventory.labels()))


def in_order(records: Iterable[Record], sort: str, now_ms: int) -> list[Record]:
    """By a field, downwards behind a `-`, then by name; those of which it is not known come last. Pure.

    Raises:
        UsageError: there is no such field.
    """
    field = sort.removeprefix("-")
    if kind_of(field) is None:
        raise UsageError(f"cannot sort by {field!r}: there are {', '.join(FIELDS)} and label.NAME")
    known: list[tuple[Any, Record]] = []
    unknown: list[Record] = []
    for record in sorted(records, key=lambda record: record.node):
        values = values_of(field, record, now_ms)
        if values:
            known.append((values[0], record))
        else:
            unknown.append(record)
    known.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
    return [record for _, record in known] + unknown


def unknown_node(node: str) -> NotFoundError:
    """The error for a node that nobody knows."""
    return NotFoundError(f"cannot find node {node!r}: `fleet nodes` lists those that there are")
