"""Telemetry: asking for it. What is older than two days is there by the hour."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from sqlalchemy import Connection

from contract import histogram
from contract.telemetry import KINDS, InferRow, SysRow
from fleet.api.cost import Took
from fleet.api.readings import Latency, Metric, Reading
from fleet.database.cloud import answered_since
from fleet.database.readings import all_rows, hour_of, rows_of
from fleet.database.store import Database
from fleet.database.tables import hourly, telemetry
from fleet.stored import read, read_all

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
            for row in read_all(all_rows(connection, table, "infer", start_ms, end_ms, nodes), InferRow):
                if counted := getattr(row, metric):
                    yield histogram.decode(counted)

    def took(self, hours: int) -> Took:
        """What answers of the last hours took."""
        now_ms = self._now_ms()
        since_ms, answers, joules = now_ms - hours * HOUR_MS, Counter[str](), dict[str, float]()
        with self._database.read() as connection:
            for row in hour_of(connection, "infer", since_ms, now_ms + 1):
                if counted := read(row.row, InferRow):
                    answers[row.node] += counted.ok
            for row in hour_of(connection, "sys", since_ms, now_ms + 1):
                if (machine := read(row.row, SysRow)) and machine.energy_joules is not None:
                    joules[row.node] = joules.get(row.node, 0.0) + machine.energy_joules
            cloud_answers, cloud_nano = answered_since(connection, since_ms)
        metered = joules.keys() & answers.keys()
        return Took(
            num_nodes=len(answers), num_metered=len(metered), answers=answers.total(),
            metered_answers=sum(answers[node] for node in metered), joules=sum(joules[node] for node in metered),
            cloud_answers=cloud_answers, cloud_nano=cloud_nano,
        )  # fmt: skip

    def rows(self, node: str, kind: type[Kind], since_ms: int, until_ms: int, limit: int) -> list[Reading[Kind]]:
        """A node's rows of the last two days, the newest first."""
        with self._database.read() as connection:
            found = rows_of(connection, node, _NAMES[kind], since_ms, until_ms, limit)
        return [Reading(at_ms, row) for at_ms, text in found if (row := read(text, kind)) is not None]


def raw_border(now_ms: int) -> int:
    """From here on rows are asked for as they came; before, by the hour."""
    return (now_ms - RAW_MS) // HOUR_MS * HOUR_MS + HOUR_MS
