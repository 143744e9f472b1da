"""Telemetry over HTTP."""

from collections.abc import Callable

from contract.telemetry import InferRow, SysRow
from fleet.api.cost import CostFilter, Took
from fleet.api.readings import Latency, LatencyFilter, Reading, Row, Span
from fleet.inventory import Inventory
from fleet.readings import Readings
from fleet.web.endpoint import Call, Endpoint
from fleet.web.nodes import find, unknown_node

HOUR_MS = 3_600_000


def endpoints(readings: Readings, inventory: Inventory, now_ms: Callable[[], int]) -> list[Endpoint]:
    """What was measured."""

    def span(wanted: Span | LatencyFilter) -> tuple[int, int]:
        until_ms = now_ms() + 1 if wanted.until_ms is None else wanted.until_ms
        since_ms = until_ms - HOUR_MS if wanted.since_ms is None else wanted.since_ms
        return min(since_ms, until_ms), until_ms

    def latency(call: Call) -> Latency | None:
        wanted: LatencyFilter = call.query
        nodes = None if wanted.query is None else [record.node for record in find(inventory, wanted.query)]
        return readings.latency(nodes, wanted.metric, *span(wanted))

    def rows(call: Call, kind: type[Row]) -> list[Reading[Row]]:
        node, wanted = call.path["node"], call.query
        if not inventory.knows(node):
            raise unknown_node(node)
        since_ms, until_ms = span(wanted)
        return readings.rows(node, kind, since_ms, until_ms, wanted.limit)

    return [
        Endpoint(
            method="GET", path="/v1/latency", summary="Quantiles over the fleet, within 1 % of exact", least="viewer",
            work=latency, query=LatencyFilter, answer=Latency | None,
        ),
        Endpoint(
            method="GET", path="/v1/reports/cost", summary="What answers of nodes and clouds took", least="viewer",
            work=lambda call: readings.took(call.query.hours), query=CostFilter, answer=Took,
        ),
        Endpoint(
            method="GET", path="/v1/nodes/{node}/telemetry/sys", summary="What a node measured of its machine",
            least="viewer", work=lambda call: rows(call, SysRow), query=Span, answer=list[Reading[SysRow]],
        ),
        Endpoint(
            method="GET", path="/v1/nodes/{node}/telemetry/infer", summary="What a node counted of its requests",
            least="viewer", work=lambda call: rows(call, InferRow), query=Span, answer=list[Reading[InferRow]],
        ),
    ]  # fmt: skip
