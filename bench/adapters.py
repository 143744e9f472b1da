"""Adapters: how often the one that is asked for is resident, how long one takes to come, and what a family takes."""

from bench import adapter_loads, eviction
from bench.report import Report


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    adapter_loads.measure(report, quick=quick)
    eviction.measure(report, quick=quick)
