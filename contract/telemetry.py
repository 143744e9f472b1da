"""Telemetry: rows of measurements in batches that are small enough. Pure. No row has room for the text of a prompt.

A batch names its columns, so a newer node can add some and an older controller ignores them. It has a bound in bytes;
what does not fit is folded together, so a day costs at most `bytes_per_day`, whatever a node does. `run` and `seq` name
it: rows are stored once, and a gap shows.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from contract import histogram
from contract.limits import MAX_INTEGER
from contract.numbers import Amount, Count, clamp
from contract.settings import TelemetryLevel
from contract.status import Status
from contract.steering import Cell, Telemetry

# Topic, MQTT, TLS and TCP headers of a message: 111 bytes with the longest ids in use, and an acknowledgement by TCP.
OVERHEAD_BYTES = 160
MIN_INFER_BYTES = 1280
# Beyond the regular ones: a `sys` batch soon after a connection, so that a controller that starts anew is not blind.
EARLY_A_DAY = 8
DAY_S = 24 * 3600
FOLDED = "*"  # in place of a model or adapter: several

Name = Annotated[str, Meta(max_length=128)]
Share = Annotated[float, Meta(ge=0, le=100)]
EngineState = Literal["asleep", "starting", "ready", "broken", "stopped"]


class Pace(Struct, frozen=True):
    """How often a node measures and sends at a level, and how large a message may be with its headers."""

    sample_s: int
    sys_s: int
    infer_s: int
    sys_bytes: int
    infer_bytes: int


PACES: dict[TelemetryLevel, Pace | None] = {
    "off": None,
    "low": Pace(sample_s=1200, sys_s=3600, infer_s=7200, sys_bytes=860, infer_bytes=MIN_INFER_BYTES),
    "normal": Pace(sample_s=400, sys_s=1200, infer_s=1800, sys_bytes=860, infer_bytes=2720),
    "high": Pace(sample_s=20, sys_s=60, infer_s=60, sys_bytes=860, infer_bytes=2720),
}


def bytes_per_day(level: TelemetryLevel) -> int:
    """What telemetry costs at most."""
    pace = PACES[level]
    if pace is None:
        return 0
    return (DAY_S // pace.sys_s + EARLY_A_DAY) * pace.sys_bytes + DAY_S // pace.infer_s * pace.infer_bytes


class SysRow(Struct, frozen=True, kw_only=True):
    """The machine at one moment. What has no meter is null, never a guess."""

    age_s: Annotated[Count, Meta(description="Seconds before the batch's `ts`.")]
    cpu_percent: Annotated[Share | None, Meta(description="Of all cores, since the row before.")] = None
    cpu_stalled_percent: Annotated[
        Share | None,
        Meta(description="Of the time, in which something waited for a core (PSI)."),
    ] = None
    ram_available_mib: Count | None = None
    memory_stalled_percent: Annotated[Share | None, Meta(description="The same for memory.")] = None
    temperature_c: Annotated[Amount | None, Meta(description="Of the hottest sensor.")] = None
    throttled_percent: Annotated[
        Share | None, Meta(description="Of the time, in which the processor was slowed down to cool it.")
    ] = None
    disk_free_mib: Annotated[Count | None, Meta(description="Where the state directory is.")] = None
    received_kib: Annotated[Count | None, Meta(description="Since the row before.")] = None
    sent_kib: Annotated[Count | None, Meta(description="Since the row before.")] = None
    energy_joules: Annotated[Amount | None, Meta(description="Since the row before, as a meter says.")] = None
    energy_source: Annotated[Name | None, Meta(description="The meter: rapl, ina3221 or battery.")] = None
    queue: Annotated[Count | None, Meta(description="Requests that wait.")] = None
    queue_limit: Annotated[Count | None, Meta(description="Requests that may wait.")] = None
    engine: Annotated[EngineState | None, Meta(description="Of the default model.")] = None
    models: Annotated[Count | None, Meta(description="Models that the node has.")] = None
    quarantined: Annotated[Count | None, Meta(description="Requests, schemas and adapters in quarantine.")] = None


class InferRow(Struct, frozen=True, kw_only=True):
    """Requests of one model and adapter over a span of time, counted at their end."""

    age_s: Annotated[Count, Meta(description="Seconds from the end of the span to the batch's `ts`.")]
    span_s: Annotated[Count, Meta(description="Its length.")]
    model: Annotated[Name, Meta(description=f"`name@version`; `{FOLDED}`: several, or refused before one was chosen.")]
    adapter: Annotated[Name | None, Meta(description="The same; null: the bare model.")] = None
    ok: Annotated[Count, Meta(description="Answers with 200.")] = 0
    unfit: Annotated[Count, Meta(description="422.")] = 0
    late: Annotated[Count, Meta(description="408.")] = 0
    busy: Annotated[Count, Meta(description="429, but for quotas.")] = 0
    cancelled: Annotated[Count, Meta(description="499.")] = 0
    refused: Annotated[Count, Meta(description="Other 4xx, and quotas: the sender's doing.")] = 0
    failed: Annotated[Count, Meta(description="5xx: the node's doing.")] = 0
    prompt_tokens: Count = 0
    cached_tokens: Annotated[Count, Meta(description="Of the prompts, that were computed before.")] = 0
    completion_tokens: Count = 0
    decode_s: Annotated[
        float, Meta(ge=0, le=MAX_INTEGER, description="In which `completion_tokens` were made: tokens a second.")
    ] = 0.0
    adapter_hits: Annotated[Count, Meta(description="Requests whose adapter was in memory.")] = 0
    adapter_loads: Annotated[Count, Meta(description="Requests that had to wait for theirs.")] = 0
    queue_max: Annotated[Count, Meta(description="Most that waited at the same time.")] = 0
    first_token_ms: Annotated[
        str | None, Meta(description="Histogram of the time to the first token (contract.histogram).")
    ] = None
    token_ms: Annotated[str | None, Meta(description="Histogram of the mean time per later token of an answer.")] = None

    @property
    def num_requests(self) -> int:
        """All that ended."""
        return self.ok + self.unfit + self.late + self.busy + self.cancelled + self.refused + self.failed


_OUTCOMES = {
    Status.OK: "ok", Status.UNFIT: "unfit", Status.DEADLINE: "late", Status.BUSY: "busy", Status.CANCELLED: "cancelled",
}  # fmt: skip
_SUMS = (
    "ok", "unfit", "late", "busy", "cancelled", "refused", "failed", "prompt_tokens", "cached_tokens",
    "completion_tokens", "decode_s", "adapter_hits", "adapter_loads",
)  # fmt: skip
_HISTOGRAMS = ("first_token_ms", "token_ms")

Row = TypeVar("Row", SysRow, InferRow)
KINDS: dict[str, type[SysRow | InferRow]] = {"sys": SysRow, "infer": InferRow}


class BadTelemetry(ValueError):
    """A batch that holds no rows of its kind."""


def outcome_of(status: int) -> str:
    """The column in which an answer is counted."""
    return _OUTCOMES.get(Status(status), "refused" if status < 500 else "failed")


def fold(rows: Iterable[InferRow]) -> InferRow:
    """Rows of the same time as one: counts are added, histograms merged; a model that is not the same in all is `*`."""
    rows = list(rows)
    models, adapters = {row.model for row in rows}, {row.adapter for row in rows}
    merged: dict[str, Any] = {name: clamp(sum(getattr(row, name) for row in rows)) for name in _SUMS}
    for name in _HISTOGRAMS:
        texts = [text for row in rows if (text := getattr(row, name))]
        merged[name] = histogram.encode(histogram.merge(map(histogram.decode, texts))) if texts else None
    return InferRow(
        age_s=min(row.age_s for row in rows),
        span_s=max(row.span_s for row in rows),
        model=rows[0].model if len(models) == 1 else FOLDED,
        adapter=rows[0].adapter if len(adapters) == 1 else FOLDED,
        queue_max=max(row.queue_max for row in rows),
        **merged,
    )


def pack_sys(run: str, seq: int, ts: int, rows: Sequence[SysRow], max_bytes: int) -> Telemetry:
    """A batch that fits: if it must be, the oldest rows are left out."""
    return _fit(lambda num_left_out: _batch(run, seq, ts, rows[num_left_out:]), len(rows), max_bytes)


def pack_infer(run: str, seq: int, ts: int, rows: Sequence[InferRow], max_bytes: int) -> Telemetry:
    """A batch that fits: if it must be, the least busy rows are folded into one, at last all, without histograms.

    That one takes up to `MIN_INFER_BYTES`, so counts are never lost.
    """
    by_use = sorted(rows, key=lambda row: row.num_requests)

    def shrunk(num_folded: int) -> Telemetry:
        if num_folded > len(rows):
            return _batch(run, seq, ts, [replace(fold(rows), first_token_ms=None, token_ms=None)])
        folded = [fold(by_use[:num_folded])] if num_folded else []
        return _batch(run, seq, ts, [*by_use[num_folded:], *folded])

    return _fit(shrunk, len(rows) + 1, max_bytes)


def unpack(batch: Telemetry, kind: type[Row]) -> list[Row]:
    """The rows of a batch. Columns that are not known are ignored, and what is missing has its default.

    Raises:
        BadTelemetry: a row is not what its kind says.
    """
    try:
        rows = [msgspec.convert(dict(zip(batch.fields, row, strict=True)), kind) for row in batch.rows]
        for row in rows:
            for name in _HISTOGRAMS:
                if text := getattr(row, name, None):
                    histogram.decode(text)
    except ValueError as error:  # msgspec's own is one too
        raise BadTelemetry(f"cannot read batch {batch.seq} of run {batch.run!r}: {error}") from None
    return rows


def _batch(run: str, seq: int, ts: int, rows: Sequence[SysRow] | Sequence[InferRow]) -> Telemetry:
    """Columns that say nothing in any row are left out."""
    columns = fields(type(rows[0])) if rows else ()
    names = [one.name for one in columns if any(getattr(row, one.name) != one.default for row in rows)]
    cells = [[_cell(getattr(row, name)) for name in names] for row in rows]
    return Telemetry(run=run, seq=seq, ts=ts, fields=names, rows=cells)


def _cell(value: Cell) -> Cell:
    return round(value, 1) if isinstance(value, float) else value


def _fit(shrunk: Callable[[int], Telemetry], most: int, max_bytes: int) -> Telemetry:
    """The batch that is shrunk least and fits, or the smallest. Shrinking more never makes it larger."""

    def fits(much: int) -> bool:
        return len(msgspec.json.encode(shrunk(much))) + OVERHEAD_BYTES <= max_bytes

    return shrunk(0 if fits(0) else bisect_left(range(most), True, lo=min(1, most), key=fits))
