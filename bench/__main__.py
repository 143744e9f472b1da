"""`python -m bench NAME [--quick]`: runs one benchmark, prints its table, writes `bench/out/NAME.json`.

Exit codes: 0 every bar holds · 1 one does not · 2 wrong usage.
"""

import argparse
import importlib
import sys
from pathlib import Path

from bench.report import Report

NAMES = (
    "adapters", "delivery", "engine", "fleet", "footprint", "gate", "http", "mqtt", "rollouts", "router", "tasks",
)  # fmt: skip


def main() -> int:
    """Runs the benchmark named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, and compare with the bars.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, at most 60 s")
    parser.add_argument("--peer", type=Path, help="engine: where llama.cpp's programs are built (bench/peers.md)")
    given = parser.parse_args()
    report = Report(given.name)
    module = importlib.import_module(f"bench.{given.name}")
    extra = {"peer": given.peer} if given.name == "engine" else {}
    module.run(report, quick=given.quick, **extra)
    report.show()
    return 0 if report.all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
