"""Results of a benchmark: a table for people, JSON for programs."""

import json
import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

OUT = Path("bench/out")
# A promise is held to the median of as many.
RUNS = 5


class Report:
    """Rows of one benchmark. The value of a row is the median of its runs."""

    def __init__(self, bench: str) -> None:
        self._bench = bench
        self._rows: list[dict[str, Any]] = []

    @property
    def all_hold(self) -> bool:
        """Whether every row with a bar is within it."""
        return all(row["holds"] is not False for row in self._rows)

    def add(
        self,
        row_id: str,
        measure: str,
        unit: str,
        runs: list[float],
        at_most: float | None = None,
        *,
        at_least: float | None = None,
    ) -> None:
        """Adds a row and says so; without a bar it is there to compare with."""
        value = statistics.median(runs)
        bar = f"<= {at_most:g}" if at_most is not None else f">= {at_least:g}" if at_least is not None else None
        holds = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        self._rows.append(
            {
                "id": row_id,
                "measure": measure,
                "value": round(value, 3),
                "unit": unit,
                "bar": bar,
                "holds": holds if bar else None,
                "runs": [round(run, 3) for run in runs],
            }
        )
        print(f"{row_id}: {value:.4g} {unit}", flush=True)

    def show(self) -> None:
        """Prints the table and writes the JSON."""
        table = Table(title=f"bench {self._bench}")
        for name in ("id", "measure", "value", "bar", "holds", "runs (lowest to highest)"):
            table.add_column(name, overflow="fold")
        for row in self._rows:
            holds = {None: "", True: "yes", False: "NO"}[row["holds"]]
            spread = f"{len(row['runs'])}: {min(row['runs'])} to {max(row['runs'])}"
            value = f"{row['value']} {row['unit']}"
            table.add_row(row["id"], row["measure"], value, row["bar"] or "", holds, spread)
        Console(width=None if os.isatty(1) else 140).print(table)
        OUT.mkdir(parents=True, exist_ok=True)
        document = {"bench": self._bench, "machine": machine(), "rows": self._rows}
        path = OUT / f"{self._bench}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"written to {path}")


def machine() -> dict[str, Any]:
    """What the numbers were measured on. No names of hosts."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "ram_mib": psutil.virtual_memory().total // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = math.ceil(round(share * len(ordered), 9))  # 0.95 · 20 must not become 19.000000000000004
    return ordered[max(1, rank) - 1]
