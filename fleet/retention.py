"""How long what nodes measured and said is kept: rows for two days, folded by the hour for ninety days.

An hour is folded once, in one transaction, two hours after it has ended: the slowest nodes send each hour. Old rows are
deleted a few thousand at a time, so that what comes meanwhile does not wait.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
import structlog
from sqlalchemy import insert

from contract.telemetry import InferRow, SysRow, fold
from fleet.database.readings import delete_before, first_row, hour_of, last_hour
from fleet.database.store import Database
from fleet.database.tables import events, hourly, telemetry
from fleet.readings import HOUR_MS, HOURLY_MS, RAW_MS

log = structlog.get_logger()

SETTLED_MS = 2 * HOUR_MS
DELETED_AT_ONCE = 2000

# What stands for an hour of the machine: the worst of what runs out, the sum of what is counted, else the mean.
_LEAST = ("ram_available_mib", "disk_free_mib", "models")
_MOST = ("temperature_c", "queue", "queue_limit", "quarantined")
_SUM = ("received_kib", "sent_kib", "energy_joules")
_LAST = ("energy_source", "engine")


class Retention:
    """Folds and deletes. Called now and then, from one thread."""

    def __init__(self, database: Database, now_ms: Callable[[], int], is_over: Callable[[], bool]) -> None:
        """`is_over`: whether to stop in the middle, because the controller ends."""
        self._database = database
        self._now_ms = now_ms
        self._is_over = is_over

    def tidy(self) -> None:
        """Does all that is due. What is left when it stops is done the next time."""
        now_ms = self._now_ms()
        for kind in ("sys", "infer"):
            self._fold(kind, now_ms)
        for table, kept_ms in ((telemetry, RAW_MS), (hourly, HOURLY_MS), (events, HOURLY_MS)):
            while not self._is_over():
                with self._database.write() as connection:
                    if delete_before(connection, table, now_ms - kept_ms, DELETED_AT_ONCE) < DELETED_AT_ONCE:
                        break

    def _fold(self, kind: str, now_ms: int) -> None:
        """Folds the hours that have settled, the oldest first."""
        while not self._is_over():
            with self._database.read() as connection:
                last = last_hour(connection, kind)
                first = first_row(connection, kind, 0 if last is None else last + HOUR_MS)
                if first is None or first // HOUR_MS * HOUR_MS + HOUR_MS + SETTLED_MS > now_ms:
                    return
                start_ms = first // HOUR_MS * HOUR_MS
                rows = hour_of(connection, kind, start_ms, start_ms + HOUR_MS)
                made = [
                    {"node": node, "kind": kind, "at_ms": start_ms, **folded}
                    for node, some in groupby(rows, key=attrgetter("node"))
                    for folded in _folded(kind, [row.row for row in some])
                ]
            with self._database.write() as connection:
                connection.execute(insert(hourly), made)
            log.info("an hour of telemetry was folded", kind=kind, rows=len(made))


def _folded(kind: str, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What of the hourly rows differs from row to row."""
    if kind == "sys":
        machine = fold_sys([msgspec.json.decode(text, type=SysRow) for text in texts])
        yield {"model": "", "adapter": "", "row": encode(machine)}
        return
    rows = [msgspec.json.decode(text, type=InferRow) for text in texts]
    rows.sort(key=_names)
    for (model, adapter), some in groupby(rows, key=_names):
        yield {"model": model, "adapter": adapter, "row": encode(fold(list(some)))}


def fold_sys(rows: Sequence[SysRow]) -> SysRow:
    """Rows of one machine, the oldest first, as one."""
    folded: dict[str, Any] = {"age_s": 0}
    for name in SysRow.__struct_fields__[1:]:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            folded[name] = _one(name, values)
    return SysRow(**folded)


def encode(row: SysRow | InferRow) -> str:
    """A row as it is stored: without what says nothing."""
    said = {name: value for name, value in _items(row) if value is not None and value != 0}
    return msgspec.json.encode({"age_s": 0, "span_s": 0, **said}).decode()


def _one(name: str, values: Sequence[Any]) -> Any:
    if name in _LAST:
        return values[-1]
    if name in _LEAST:
        return min(values)
    if name in _MOST:
        return max(values)
    total = sum(values)
    return total if name in _SUM else round(total / len(values), 1)


def _names(row: InferRow) -> tuple[str, str]:
    return row.model, row.adapter or ""


def _items(row: SysRow | InferRow) -> Iterable[tuple[str, Any]]:
    return ((name, getattr(row, name)) for name in row.__struct_fields__)
