"""What the eviction policy keeps, beside LRU, LFU and Belady's optimum, over the same requests.

A thousand adapters of equal size, as they are when made from a real one by noise. One storage has copies of the whole
fine-tuned model, the other one base and an adapter for each variant. The queue of waiting requests, which tells the
agent of the next uses, is either full (`[limits] queue`, 64 by default) or empty.
"""

from typing import NamedTuple

from agent.config import Limits
from bench.replay import Policy, belady, lfu, lru, ours, replay, requests
from bench.report import RUNS, Report

GB = 10**9
NUM_ADAPTERS = 1_000
NUM_REQUESTS = 10_000
FULL_QUEUE = Limits().queue
MODEL_BYTES = 98_362_432  # SmolLM2-135M, Q4_1
HALF_B_BYTES = 400 * 10**6  # a model of 0.5 billion parameters in 4 bits
LARGE_BYTES = 4_900_000  # rank 8 on all linear layers of it
SMALL_BYTES = 900_000  # on q and v only
# A tenth of the memory of a device with 1 GB.
RAM_BYTES = 100 * 10**6
# 1 GB less the base; the same with a shared A, which is half of the bytes; and halves of all adapters.
OTHER_PLACES = (8, 50, (GB - MODEL_BYTES) // LARGE_BYTES, 2 * (GB - MODEL_BYTES) // LARGE_BYTES, 500)


class Workload(NamedTuple):
    """Whose popularity falls with the rank to this power, and is dealt anew so many times."""

    name: str
    exponent: float
    shifts: int = 0


ZIPF = Workload("zipf_1.0", 1.0)
WORKLOADS = (Workload("zipf_0.8", 0.8), ZIPF, Workload("zipf_1.2", 1.2), Workload("shifting", 1.0, shifts=4))
POLICIES: dict[str, tuple[Policy, int]] = {
    "lru": (lru, 0),
    "lfu": (lfu, 0),
    "ours": (ours, 0),
    "ours_queue": (ours, FULL_QUEUE),
}


class _Replays:
    """Replays with several seeds, and how much of its budget any of them filled at most."""

    def __init__(self, report: Report, runs: int) -> None:
        self.report = report
        self.runs = runs
        self.most_of_budget = 0.0

    def ratios(
        self,
        policy: Policy,
        num_waiting: int,
        work: Workload,
        sizes: list[int],
        budget_bytes: int,
        num_requests: int = NUM_REQUESTS,
    ) -> list[float]:
        """The hit ratio of each run."""
        ratios = []
        for seed in range(self.runs):
            asked = requests(len(sizes), num_requests, work.exponent, seed, shifts=work.shifts)
            outcome = replay(asked, sizes, budget_bytes, policy, num_waiting)
            self.most_of_budget = max(self.most_of_budget, outcome.peak_bytes / budget_bytes)
            ratios.append(outcome.hit_ratio)
        return ratios

    def optimum(self, work: Workload, num_places: int) -> list[float]:
        """Belady's hit ratio of each run."""
        asked = (
            requests(NUM_ADAPTERS, NUM_REQUESTS, work.exponent, seed, shifts=work.shifts) for seed in range(self.runs)
        )
        return [belady(one, num_places) for one in asked]


def measure(report: Report, *, quick: bool) -> None:
    """Adds the rows."""
    replays = _Replays(report, 1 if quick else RUNS)
    _storages(replays)
    _sizes_mixed(replays)
    _why_adapters(replays)
    _beside_belady(replays)
    # The worst of all, not the median: a budget is kept always or not at all.
    report.add("resident_over_budget", "most bytes resident / budget", "", [replays.most_of_budget], 1.0)


def _storages(replays: _Replays) -> None:
    for storage, each_bytes, budget_bytes in (
        ("copies", MODEL_BYTES, GB),
        ("shared", LARGE_BYTES, GB - MODEL_BYTES),
    ):
        places = budget_bytes // each_bytes
        for work in WORKLOADS:
            about = f"hits, 1 GB, {storage}: {places} of {NUM_ADAPTERS} fit"
            for name, (policy, num_waiting) in POLICIES.items():
                ratios = replays.ratios(policy, num_waiting, work, [each_bytes] * NUM_ADAPTERS, budget_bytes)
                replays.report.add(f"hit_{storage}_{work.name}_{name}", about, "", ratios)
            replays.report.add(f"hit_{storage}_{work.name}_belady", about, "", replays.optimum(work, places))


def _sizes_mixed(replays: _Replays) -> None:
    sizes = [LARGE_BYTES, SMALL_BYTES] * (NUM_ADAPTERS // 2)
    for name, (policy, num_waiting) in POLICIES.items():
        ratios = replays.ratios(policy, num_waiting, ZIPF, sizes, sum(sizes) // 5)
        replays.report.add(f"hit_mixed_sizes_{name}", "hits, a fifth of the bytes of 0.9 and 4.9 MB fits", "", ratios)


def _why_adapters(replays: _Replays) -> None:
    """Why adapters at all: 100 variants of a model in 1 GB, asked for 1,000 times."""
    for name, each_bytes, budget_bytes in (
        ("copies_of_400_mb", HALF_B_BYTES, GB),
        ("copies_of_98_mb", MODEL_BYTES, GB),
        ("adapters", LARGE_BYTES, GB - MODEL_BYTES),
    ):
        for policy in ("lru", "ours"):
            ratios = replays.ratios(*POLICIES[policy], ZIPF, [each_bytes] * 100, budget_bytes, 1_000)
            places = min(100, budget_bytes // each_bytes)
            about = f"hits, 100 variants in 1 GB, 1,000 requests: {places} fit"
            replays.report.add(f"hit_100_{name}_{policy}", about, "", ratios)


def _beside_belady(replays: _Replays) -> None:
    """The promise, and the same where more or fewer are resident, with the queue full and empty."""
    promised = RAM_BYTES // LARGE_BYTES
    for places in sorted({promised, *OTHER_PLACES}):
        optimum = replays.optimum(ZIPF, places)
        for queue in (0, FULL_QUEUE):
            mine = replays.ratios(ours, queue, ZIPF, [1] * NUM_ADAPTERS, places)
            over = [own / best for own, best in zip(mine, optimum, strict=True)]
            about = f"hits / Belady's, {places} of {NUM_ADAPTERS} resident, {queue} wait"
            if (places, queue) == (promised, FULL_QUEUE):
                replays.report.add("hit_over_belady", about, "", over, at_least=0.95)
            else:
                replays.report.add(f"hit_over_belady_{places}_queue_{queue}", about, "", over)
