"""Adapters: how often the one that is asked for is resident. No model is loaded."""

from bench import eviction
from bench.report import Report


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    eviction.measure(report, quick=quick)
