"""Telemetry: small, complete, and without a word of a prompt."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from contract.histogram import Histogram, decode, encode, merge
from contract.status import Status
from contract.steering import Telemetry
from contract.telemetry import (
    DAY_S,
    EARLY_A_DAY,
    FOLDED,
    KINDS,
    MIN_INFER_BYTES,
    OVERHEAD_BYTES,
    PACES,
    BadTelemetry,
    InferRow,
    SysRow,
    bytes_per_day,
    fold,
    outcome_of,
    pack_infer,
    pack_sys,
    unpack,
)

RUN = "3f9a01c2"
NOW = 1_800_000_000_000
NORMAL = PACES["normal"]
MODELS = ["qwen2.5-0.5b-instruct-q4@4f1e2d3c4b5a", "smollm2-135m-instruct-q4@b179c9523d0e"]


def sizes(batches: list[Telemetry]) -> int:
    """Bytes on the link."""
    return sum(len(msgspec.json.encode(batch)) + OVERHEAD_BYTES for batch in batches)


def durations(random: Random, num: int, middle: float, spread: float) -> str:
    """A histogram of times."""
    made = Histogram()
    for _ in range(num):
        made.add(random.lognormvariate(0, spread) * middle)
    return encode(made)


def busy_row(random: Random, adapter: str | None, num: int) -> InferRow:
    """Half an hour of one adapter on a busy node."""
    return InferRow(
        age_s=random.randrange(60), span_s=1800, model=random.choice(MODELS), adapter=adapter, ok=num,
        unfit=random.randrange(9), late=random.randrange(9), busy=random.randrange(99), cancelled=random.randrange(9),
        refused=random.randrange(9), failed=random.randrange(3), prompt_tokens=num * 231, cached_tokens=num * 180,
        completion_tokens=num * 64, decode_s=random.uniform(100, 1799), adapter_hits=num - 3, adapter_loads=3,
        queue_max=random.randrange(64), first_token_ms=durations(random, num, 400, 0.7),
        token_ms=durations(random, num, 15, 0.3),
    )  # fmt: skip


def sys_row(random: Random, age_s: int) -> SysRow:
    """A machine that measures everything."""
    return SysRow(
        age_s=age_s, cpu_percent=random.uniform(0, 100), cpu_stalled_percent=random.uniform(0, 100),
        ram_available_mib=random.randrange(8192), memory_stalled_percent=random.uniform(0, 100),
        temperature_c=random.uniform(40, 90), throttled_percent=random.uniform(0, 100),
        disk_free_mib=random.randrange(200_000), received_kib=random.randrange(10**7), sent_kib=random.randrange(10**7),
        energy_joules=random.uniform(0, 9000), energy_source="ina3221", queue=random.randrange(64), queue_limit=64,
        engine="ready", models=random.randrange(9), quarantined=random.randrange(9),
    )  # fmt: skip


def test_a_day_of_a_busy_node_stays_below_200_kb() -> None:
    """Eight adapters and the bare model, some thousand requests an hour, every meter there is."""
    assert NORMAL is not None
    random = Random(5)
    adapters = [None, *(f"store-{n}-wishes@1.{n}" for n in range(8))]
    batches, kept = [], 0
    for seq in range(DAY_S // NORMAL.sys_s + EARLY_A_DAY):
        rows = [sys_row(random, age) for age in range(0, NORMAL.sys_s, NORMAL.sample_s)]
        batches.append(pack_sys(RUN, seq, NOW + seq, rows, NORMAL.sys_bytes))
        assert len(batches[-1].rows) == len(rows)
    for seq in range(DAY_S // NORMAL.infer_s):
        rows_of_adapters = [busy_row(random, adapter, 1 + 900 // (place + 1)) for place, adapter in enumerate(adapters)]
        batches.append(pack_infer(RUN, seq, NOW + seq, rows_of_adapters, NORMAL.infer_bytes))
        kept += sum(row.adapter != FOLDED for row in unpack(batches[-1], InferRow))
    assert sizes(batches) <= 200_000
    assert sizes(batches) >= 150_000  # the bounds are no larger than the need
    assert kept / (DAY_S // NORMAL.infer_s) >= 5


def test_the_largest_readings_fit() -> None:
    """No sample is lost for being long."""
    assert NORMAL is not None
    row = SysRow(
        age_s=900, cpu_percent=99.9, cpu_stalled_percent=99.9, ram_available_mib=999_999, memory_stalled_percent=99.9,
        temperature_c=-10.1, throttled_percent=99.9, disk_free_mib=99_999_999, received_kib=99_999_999,
        sent_kib=99_999_999, energy_joules=999_999.9, energy_source="ina3221", queue=10_000, queue_limit=10_000,
        engine="starting", models=999, quarantined=1000,
    )  # fmt: skip
    rows = [row] * (NORMAL.sys_s // NORMAL.sample_s)
    assert len(pack_sys("f" * 32, 10**6, NOW, rows, NORMAL.sys_bytes).rows) == len(rows)


def test_the_bounds_of_a_day() -> None:
    """200 kB by default, 50 kB on a metered link, nothing when it is off."""
    assert bytes_per_day("normal") <= 200_000
    assert bytes_per_day("low") <= 50_000
    assert bytes_per_day("off") == 0
    assert bytes_per_day("low") < bytes_per_day("normal") < bytes_per_day("high")


ROWS = st.builds(
    InferRow, age_s=st.integers(0, 60), span_s=st.just(1800), model=st.sampled_from(MODELS),
    adapter=st.sampled_from([None, "a@1", "b@1", "c" * 128]), ok=st.integers(0, 10**6), failed=st.integers(0, 9),
    completion_tokens=st.integers(0, 10**9), queue_max=st.integers(0, 64), decode_s=st.integers(0, 1800).map(float),
    first_token_ms=st.one_of(
        st.none(), st.lists(st.floats(0, 1e6), max_size=200).map(lambda values: encode(_histogram_of(values)))
    ),
)  # fmt: skip


def _histogram_of(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(st.lists(ROWS, max_size=20), st.integers(MIN_INFER_BYTES, 4000))
def test_every_batch_fits_and_loses_no_count(rows: list[InferRow], max_bytes: int) -> None:
    """What does not fit is folded into one row: sums stay what they were, and the busiest are still told apart."""
    batch = pack_infer(RUN, 3, NOW, rows, max_bytes)
    assert sizes([batch]) <= max_bytes
    found = unpack(batch, InferRow)
    for name in ("num_requests", "completion_tokens", "decode_s"):
        assert sum(getattr(row, name) for row in found) == sum(getattr(row, name) for row in rows)
    by_use = sorted(rows, key=lambda row: row.num_requests)
    if sizes([pack_infer(RUN, 3, NOW, rows, 10**9)]) <= max_bytes:
        assert found == by_use
    else:
        assert found[:-1] == by_use[len(by_use) - len(found) + 1 :]


def test_the_longest_row_without_histograms_fits() -> None:
    """So the smallest batch is always enough."""
    longest = InferRow(
        age_s=3600, span_s=3600, model="m" * 128, adapter="a" * 128, queue_max=10_000,
        ok=10**9, unfit=10**9, late=10**9, busy=10**9, cancelled=10**9, refused=10**9, failed=10**9,
        prompt_tokens=10**12, cached_tokens=10**12, completion_tokens=10**12, decode_s=3599.9, adapter_hits=10**9,
        adapter_loads=10**9,
    )  # fmt: skip
    random = Random(2)
    row = replace(longest, first_token_ms=encode(Histogram(0, {n: random.randrange(1, 1 << 24) for n in range(900)})))
    batch = pack_infer("f" * 32, 10**6, NOW, [row], MIN_INFER_BYTES)
    assert sizes([batch]) <= MIN_INFER_BYTES
    assert unpack(batch, InferRow) == [replace(row, first_token_ms=None)]


@given(st.lists(ROWS, min_size=1, max_size=6))
def test_folding_adds_up(rows: list[InferRow]) -> None:
    """In whatever order; a name that is not the same in all becomes a star."""
    one = fold(rows)
    assert one.num_requests == sum(row.num_requests for row in rows)
    assert one.queue_max == max(row.queue_max for row in rows)
    assert (one.adapter == FOLDED) == (len({row.adapter for row in rows}) > 1)
    assert fold(rows[::-1]) == one == fold([fold(rows[:1]), *rows[1:]])
    texts = [row.first_token_ms for row in rows if row.first_token_ms]
    assert decode(one.first_token_ms or encode(Histogram())) == merge(map(decode, texts))


def test_rows_come_back_as_they_were() -> None:
    """But for what is rounded to a tenth."""
    rows = [sys_row(Random(1), 300), SysRow(age_s=0)]
    (first, second) = unpack(pack_sys(RUN, 0, NOW, rows, 10_000), SysRow)
    assert asdict(first) == pytest.approx(asdict(rows[0]), abs=0.051)
    assert second == rows[1]
    assert unpack(pack_sys(RUN, 0, NOW, [], 10_000), SysRow) == []


def test_the_oldest_samples_go_first() -> None:
    """If a machine's rows ever do not fit, what is newest is worth most."""
    rows = [SysRow(age_s=age, cpu_percent=50) for age in range(900, 0, -1)]
    found = unpack(pack_sys(RUN, 0, NOW, rows, 800), SysRow)
    assert found
    assert found == rows[-len(found) :]


def test_columns_that_say_nothing_are_left_out() -> None:
    """A machine without a meter pays nothing for it."""
    assert pack_sys(RUN, 0, NOW, [SysRow(age_s=0, cpu_percent=1)], 800).fields == ["age_s", "cpu_percent"]


def test_columns_of_later_versions_are_ignored() -> None:
    """An older controller reads what it knows."""
    batch = Telemetry(run=RUN, seq=0, ts=NOW, fields=["mood", "age_s"], rows=[["good", 5]])
    assert unpack(batch, SysRow) == [SysRow(age_s=5)]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (["age_s"], []),
        (["age_s"], [-1]),
        (["cpu_percent"], [1.0]),
        (["age_s", "cpu_percent"], [0, 101.0]),
        (["age_s", "cpu_percent"], [0, "high"]),
    ],
)
def test_rows_that_are_none_are_refused(fields: list[str], row: list[Any]) -> None:
    """Too short, out of bounds, without what must be there, of another type."""
    with pytest.raises(BadTelemetry, match="cannot read batch 7"):
        unpack(Telemetry(run=RUN, seq=7, ts=NOW, fields=fields, rows=[row]), SysRow)


def test_a_histogram_that_is_none_is_refused() -> None:
    """Before it is stored."""
    row = replace(busy_row(Random(1), None, 5), token_ms="~~~~~~")  # a time per token, no secret
    with pytest.raises(BadTelemetry):
        unpack(pack_infer(RUN, 0, NOW, [row], 10_000), InferRow)


def test_every_status_has_a_column() -> None:
    """And no other."""
    columns = {outcome_of(status) for status in Status if status is not Status.ACCEPTED}
    assert columns == {"ok", "unfit", "late", "busy", "cancelled", "refused", "failed"}
    nothing = InferRow(age_s=0, span_s=0, model="m@1")
    assert all(replace(nothing, **{name: 1}).num_requests == 1 for name in columns)


def test_there_is_no_room_for_texts() -> None:
    """The only texts are names and histograms."""
    texts = {
        field.name for kind in KINDS.values() for field in msgspec.structs.fields(kind) if "str" in str(field.type)
    }
    assert texts == {"energy_source", "model", "adapter", "first_token_ms", "token_ms"}
