"""Counting what became of requests."""

import pytest

from agent.tally import Tally
from contract import histogram
from contract.answers import Final, Timings, Usage
from contract.errors import Refused
from contract.quota import CODE
from contract.status import Status
from contract.telemetry import FOLDED, InferRow


def final(status: Status, first_ms: float | None = None, total_ms: float = 0, tokens: int = 0) -> Final:
    """An answer."""
    return Final(
        id="r", status=status, usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=tokens),
        timings=Timings(queued_ms=0, first_token_ms=first_ms, total_ms=total_ms),
    )  # fmt: skip


def test_requests_are_counted_by_model_and_adapter() -> None:
    """With how they ended, what they took, and whether their adapter was in memory."""
    tally = Tally()
    tally.waiting("m@1", 3)
    tally.waiting("m@1", 1)
    tally.ended("m@1", None, final(Status.OK, 100, 300, 5), adapter_was_here=None)
    tally.ended("m@1", "a@1", final(Status.OK, 200, 700, 11), adapter_was_here=False)
    tally.ended("m@1", "a@1", final(Status.DEADLINE, 200, 200, 1), adapter_was_here=True)
    tally.ended("m@1", "a@1", Final(id="r", status=503), adapter_was_here=None)
    rows = {row.adapter: row for row in tally.take(60)}
    bare, adapted = rows[None], rows["a@1"]
    assert (bare.ok, bare.prompt_tokens, bare.cached_tokens, bare.completion_tokens) == (1, 10, 4, 5)
    assert (bare.span_s, bare.queue_max, bare.adapter_hits, bare.adapter_loads) == (60, 3, 0, 0)
    assert (adapted.ok, adapted.late, adapted.failed) == (1, 1, 1)
    assert (adapted.adapter_hits, adapted.adapter_loads) == (1, 1)
    assert adapted.decode_s == pytest.approx(0.5)
    assert adapted.first_token_ms is not None
    assert histogram.decode(adapted.first_token_ms).num_values == 2
    assert bare.token_ms is not None
    assert histogram.decode(bare.token_ms).quantile(0.5) == pytest.approx(50, rel=0.01)


def test_refusals_belong_to_no_model() -> None:
    """Nobody had chosen one, or it would not take them. Who is over its quota does not make the node a busy one."""
    tally = Tally()
    refusals = [(Status.BUSY, "queue"), (Status.NOT_FOUND, "model"), (Status.BUSY, "client_queue"), (Status.BUSY, CODE)]
    for status, code in refusals:
        tally.refused(Refused(status, code, "cannot …"))
    assert tally.take(1) == [InferRow(age_s=0, span_s=1, model=FOLDED, busy=2, refused=2)]


def test_it_begins_anew() -> None:
    """What was taken is not told twice."""
    tally = Tally()
    tally.refused(Refused(Status.BUSY, "queue", "cannot …"))
    tally.take(1)
    assert tally.take(1) == []
