"""Counts of what became of requests, per model and adapter, until they are sent as telemetry. No clock, no I/O."""

from contract.answers import Final, Timings, Usage
from contract.errors import Refused
from contract.histogram import Histogram, encode
from contract.quota import CODE
from contract.telemetry import FOLDED, InferRow, outcome_of


class _Counts:
    """Of one model and adapter."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.decode_s = 0.0
        self.first_token_ms = Histogram(0, {})
        self.token_ms = Histogram(0, {})

    def add(self, column: str, number: int = 1) -> None:
        self.sums[column] = self.sums.get(column, 0) + number


class Tally:
    """What ended since the rows were last taken."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str | None], _Counts] = {}
        self._queue_max: dict[str, int] = {}

    def waiting(self, model: str, num_waiting: int) -> None:
        """So many requests wait for a model."""
        self._queue_max[model] = max(num_waiting, self._queue_max.get(model, 0))

    def refused(self, no: Refused) -> None:
        """A request was refused before a model was chosen for it, or by the model that was."""
        # Who asks for more than it may does not show that the node has too much to do.
        self._of(FOLDED, None).add("refused" if no.code == CODE else outcome_of(no.status))

    def ended(self, model: str, adapter: str | None, final: Final, *, adapter_was_here: bool | None) -> None:
        """A request that was taken has ended; None: it did not come as far as needing its adapter."""
        counts = self._of(model, adapter)
        counts.add(outcome_of(final.status))
        if adapter_was_here is not None:
            counts.add("adapter_hits" if adapter_was_here else "adapter_loads")
        usage = final.usage if isinstance(final.usage, Usage) else Usage()
        counts.add("prompt_tokens", usage.prompt_tokens)
        counts.add("cached_tokens", usage.cached_tokens)
        counts.add("completion_tokens", usage.completion_tokens)
        times = final.timings
        if isinstance(times, Timings) and times.first_token_ms is not None:
            counts.first_token_ms.add(times.first_token_ms)
            decode_ms = max(0.0, times.total_ms - times.first_token_ms)
            counts.decode_s += decode_ms / 1000
            if usage.completion_tokens > 1:
                counts.token_ms.add(decode_ms / (usage.completion_tokens - 1))

    def take(self, span_s: int) -> list[InferRow]:
        """The rows, and begins anew. The span is what went by since the last time."""
        counts, self._counts = self._counts, {}
        queue_max, self._queue_max = self._queue_max, {}
        return [
            InferRow(
                age_s=0,
                span_s=span_s,
                model=model,
                adapter=adapter,
                decode_s=one.decode_s,
                queue_max=queue_max.get(model, 0),
                first_token_ms=encode(one.first_token_ms) if one.first_token_ms.num_values else None,
                token_ms=encode(one.token_ms) if one.token_ms.num_values else None,
                **one.sums,
            )
            for (model, adapter), one in counts.items()
        ]

    def _of(self, model: str, adapter: str | None) -> _Counts:
        return self._counts.setdefault((model, adapter), _Counts())
