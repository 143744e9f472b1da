"""Telemetry: asking for it. What is older than two days is there by the hour."""

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import msgspec
from sqlalchemy import Connection

from contract import histogram
from contract.telemetry import KINDS, InferRow, SysRow
from fleet.api.readings import Latency, Metric, Reading
from fleet.database.readings import all_rows, rows_of
from fleet.database.store import Database
from fleet.database.tables import hourly, telemetry

HOUR_MS = 3600 * 1000
RAW_MS = 48 * HOUR_MS
HOURLY_MS = 90 * 24 * HOUR_MS

Kind = TypeVar("Kind", SysRow, InferRow)
_NAMES: dict[type[SysRow | InferRow], str] = {kind: name for name, kind in KINDS.items()}


class Readings:
    """Telemetry of the fleet."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    def latency(self, nodes: Collection[str] | None, metric: Metric, since_ms: int, until_ms: int) -> Latency | None:
        """Quantiles of what these nodes (None: all) counted in a span of time; None when they counted nothing.

        Beyond two days the span is widened to whole hours.
        """
        with self._database.read() as connection:
            whole = histogram.merge(self._counted(connection, nodes, metric, since_ms, until_ms))
        p50, p95, p99 = (whole.quantile(part) or 0.0 for part in (0.5, 0.95, 0.99))
        return Latency(whole.num_values, p50, p95, p99) if whole.num_values else None

    def _counted(
        self, connection: Connection, nodes: Collection[str] | None, metric: Metric, since_ms: int, until_ms: int
    ) -> Iterator[histogram.Histogram]:
        border_ms = raw_border(self._now_ms())
        spans = (
            (hourly, since_ms // HOUR_MS * HOUR_MS, min(until_ms, border_ms)),
            (telemetry, max(since_ms, border_ms), until_ms),
        )
        for table, start_ms, end_ms in spans:
            for text in all_rows(connection, table, "infer", start_ms, end_ms, nodes):
                if counted := getattr(msgspec.json.decode(text, type=InferRow), metric):
                    yield histogram.decode(counted)

    def rows(self, node: str, kind: type[Kind], since_ms: int, until_ms: int, limit: int) -> list[Reading[Kind]]:
        """A node's rows of the last two days, the newest first."""
        with self._database.read() as connection:
            found = rows_of(connection, node, _NAMES[kind], since_ms, until_ms, limit)
        return [Reading(row.at_ms, msgspec.json.decode(row.row, type=kind)) for row in found]


def raw_border(now_ms: int) -> int:
    """From here on rows are asked for as they came; before, by the hour."""
    return (now_ms - RAW_MS) // HOUR_MS * HOUR_MS + HOUR_MS
