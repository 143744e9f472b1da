"""The router: what a decision takes, and how much less of a site's work goes to the cloud when load is looked at.

Steady and bursty load on eight simulated devices (bench/crowded_site.py), the same requests for each policy. The cost
is what a cloud of 0.15 and 0.60 for a million tokens in and out would take at most: all tokens at the dearer price.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from agent.router import CloudState, Here, Place, Work, route
from bench.crowded_site import POLICIES, Outcome, arrivals, simulate
from bench.leaks import budget_overshoot, finals_when_down, leaked_bytes
from bench.report import RUNS, Report, percentile
from fleet.database.store import open_database

NUM_REQUESTS = 10_000
# Of what the site could do: steady load is near its limit, a burst is far beyond it.
PER_S = {"steady": 1.6, "burst": 1.2}
PRICE_A_MILLION = 0.60
NUM_NEIGHBOURS = 30
NUM_DECISIONS = 2_000


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows."""
    runs = 1 if quick else RUNS
    report.add(
        "decision_ms", f"a decision, {NUM_NEIGHBOURS} neighbours", "ms", [_decision_ms() for _ in range(RUNS)], 0.2
    )
    for load, per_s in PER_S.items():
        outcomes: dict[str, list[Outcome]] = {name: [] for name in POLICIES}
        for seed in range(runs):
            asked = arrivals(seed, NUM_REQUESTS, per_s, bursty=load == "burst")
            for name, policy in POLICIES.items():
                outcomes[name].append(simulate(asked, policy, seed))
        for name, some in outcomes.items():
            _rows(report, load, name, some)
        ratios = [
            own.cloud_tokens / max(1, chance.cloud_tokens)
            for own, chance in zip(outcomes["loadaware"], outcomes["random"], strict=True)
        ]
        row = "loadaware_tokens_over_random" + ("" if load == "burst" else "_steady")
        report.add(row, f"tokens to the cloud / random's, {load}", "", ratios, 0.7 if load == "burst" else None)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_lending(report, Path(folder), quick=quick))


async def _lending(report: Report, folder: Path, *, quick: bool) -> None:
    """What leaves and what it costs, with real parts but for the provider."""
    database = open_database(f"sqlite:///{folder / 'fleet.db'}")
    number = 500 if quick else 10_000
    leaked, num_left = await leaked_bytes(database, number, seed=1)
    report.add(
        "bytes_leaked", f"of prompts that must stay, {number} requests, {num_left} went out", "bytes", [leaked], 0
    )
    other = open_database(f"sqlite:///{folder / 'budget.db'}")
    over, num_refused = await budget_overshoot(other, 64)
    report.add("budget_overshoot", f"64 at once, {num_refused} refused", "tokens", [over], 0)
    finals = await finals_when_down(open_database(f"sqlite:///{folder / 'down.db'}"), 200)
    report.add("cloud_down_finals", "of 200, the provider goes down after 50", "", [finals], at_least=200)


def _rows(report: Report, load: str, name: str, some: list[Outcome]) -> None:
    tokens = [float(one.cloud_tokens) for one in some]
    report.add(f"cloud_tokens_{load}_{name}", f"to the cloud, of {some[0].total_tokens}", "tokens", tokens)
    report.add(f"cost_{load}_{name}", "of these", "", [one * PRICE_A_MILLION / 1e6 for one in tokens])
    for share in (0.5, 0.95):
        label = f"latency_p{round(100 * share)}_{load}_{name}"
        report.add(label, "request to whole answer", "ms", [percentile(one.latencies_ms, share) for one in some])


def _decision_ms() -> float:
    """The median of many."""
    work = Work(100, 50, 5_000, may_site=True, may_cloud=True)
    here = Here(Place("own", 60_000, 400, 40, 2048))
    others = [Place(f"n{number}", 500.0 * number, 400, 40, 2048) for number in range(NUM_NEIGHBOURS)]
    took = list[float]()
    for _ in range(NUM_DECISIONS):
        begun = time.perf_counter_ns()
        route(work, here, others, CloudState(open=True))
        took.append((time.perf_counter_ns() - begun) / 1e6)
    return percentile(took, 0.5)
