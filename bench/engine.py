"""The engine beside llama.cpp's own programs: same model file, same threads, same context for each stream, same run.

Ratios are taken pair by pair, ours and the peer's right after each other, because the machine's speed changes more
between minutes than the two differ. How the peers are built is in `bench/peers.md`.
"""

import tempfile
from pathlib import Path

from agent.models import DEFAULT_FILE
from bench import decoding, serving, slots
from bench.report import Report
from tests.fakes.adapters import make_adapter

MODEL = Path(".shoal/models") / DEFAULT_FILE


def run(report: Report, *, quick: bool, peer: Path | None) -> None:
    """Measures; without `peer` only what needs none."""
    model = MODEL.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = [
            make_adapter(folder / f"{seed}.gguf", model, seed=seed) for seed in range(slots.SLOTS + slots.NEW_ADAPTERS)
        ]
        decoding.measure(report, model, peer, quick=quick)
        slots.measure(report, model, adapters, folder, quick=quick)
        serving.measure(report, model, peer, adapters[: serving.ADAPTERS], folder, quick=quick)
