"""Adapters in one engine: decoding together in slots, a new one among running streams, and one that is rarely asked."""

import os
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median
from typing import NamedTuple

from agent.engine import frames
from agent.engine.adapters import Adapter
from agent.engine.stack import Stack
from agent.weights.adapter import SLOT_RANK
from agent.weights.base_model import read_base
from agent.weights.gguf import parse
from bench.decoding import tell
from bench.load import ENDLESS, STORIES, decoding_tok_s, zipf_mix
from bench.report import RUNS, Report, percentile
from tests.fakes.engine import EngineProcess

SLOTS = 8
STREAMS = 16
# New adapters come in turn, so many that each has left its slot before it comes again.
NEW_ADAPTERS = 12
REST_STEPS = 2
CROWD = 6
COMMON_CLIENTS = 5
# After so many steps with one adapter alone the engine has left its slots (agent/engine/routing.py).
STEPS_BETWEEN_RARE = 48


class Probe(NamedTuple):
    """A request among running streams: its first-token time, and the longest pause of the others' tokens around it."""

    first_token_ms: float
    pause_ms: float


def measure(report: Report, model: Path, adapters: list[Path], folder: Path, *, quick: bool) -> None:
    """`adapters` are `SLOTS` + `NEW_ADAPTERS` files; in `folder` engines may keep what they make."""
    runs = 1 if quick else RUNS
    _together(report, model, adapters[:SLOTS], folder, runs, 16 if quick else 24)
    _swaps(report, model, adapters, folder, runs, 4 if quick else 20)
    _rare(report, model, adapters, folder, runs, 1 if quick else 2)


def _together(report: Report, model: Path, adapters: list[Path], folder: Path, runs: int, num_tokens: int) -> None:
    slots = EngineProcess(model, parallel=STREAMS, context_tokens=512, adapter_slots=SLOTS, cache_dir=folder)
    turns = EngineProcess(model, parallel=STREAMS, context_tokens=512)
    digests = [slots.give(path) for path in adapters]
    for path, digest in zip(adapters, digests, strict=True):
        turns.give(path, digest)
    for engine in (slots, turns):
        tell(engine, SLOTS, 1, digests)  # brings the adapters in
    ratios = []
    for run in range(runs):
        mix = [digests[number] for number in zipf_mix(STREAMS, SLOTS, run)]
        in_slots = decoding_tok_s(tell(slots, STREAMS, num_tokens, mix))
        ratios.append(in_slots / decoding_tok_s(tell(turns, STREAMS, num_tokens, mix)))
    slots.close()
    turns.close()
    report.add("slots_over_grouped", "8 adapters, 16 streams: slots / taking turns", "", ratios, at_least=2.0)


def _swaps(report: Report, model: Path, adapters: list[Path], folder: Path, runs: int, num_rounds: int) -> None:
    engine = EngineProcess(model, parallel=SLOTS, context_tokens=1024, adapter_slots=SLOTS, cache_dir=folder)
    digests = [engine.give(path) for path in adapters[: 3 + NEW_ADAPTERS]]
    numbers = count(100_000)
    write_ms = _write_ms(model, adapters[0])
    costs, delays, pauses = [], [], []
    for run in range(runs):
        crowd = _Crowd(engine, digests[:2])
        known, new, ready = [], [], []
        crowd.probe(next(numbers), digests[2], None)  # this one is in a slot from now on
        for turn in range(num_rounds):
            at = 3 + (run * num_rounds + turn) % NEW_ADAPTERS
            known.append(crowd.probe(next(numbers), digests[2], None))
            ready.append(crowd.ready_ms(digests[at], adapters[at]))
            new.append(crowd.probe(next(numbers), digests[at], adapters[at]))
        usual_ms = crowd.usual_pause_ms
        crowd.leave()
        differences = [n.first_token_ms - k.first_token_ms for n, k in zip(new, known, strict=True)]
        delays.append(percentile(differences, 0.95))
        costs.append(percentile(ready, 0.95) + write_ms)
        prompt_step_ms = median(probe.pause_ms for probe in known)
        pauses.append(max(probe.pause_ms for probe in new) / (2 * usual_ms + prompt_step_ms))
    engine.close()
    report.add("swap_ms_p95", "5 MB sent until it is checked and in a slot, 6 streams decode, p95", "ms", costs, 10.0)
    report.add("swap_first_token_ms_p95", "first token: new adapter - one in a slot, p95", "ms", delays)
    report.add(
        "swap_pause_ratio", "longest pause of the others / (2 of their steps + a prompt's)", "", pauses, 1.0
    )  # fmt: skip


def _write_ms(model: Path, path: Path) -> float:
    """Median time of writing an adapter into a slot, which the engine does between two steps."""
    data = model.read_bytes()
    stack = Stack(parse(data), memoryview(data), rank=SLOT_RANK, activation_tokens=list(range(SLOTS)), substitute=0)
    adapter = Adapter(os.open(path, os.O_RDONLY), read_base(data), 1)
    times = []
    for slot in range(1, SLOTS + 1):
        for _ in range(2):  # the first time brings the pages in
            started = time.monotonic()
            stack.write(adapter, slot)
            times.append((time.monotonic() - started) * 1000)
    return median(times)


class _Crowd:
    """Streams that decode while others come and go."""

    def __init__(self, engine: EngineProcess, adapters: list[str]) -> None:
        self._engine = engine
        self._last: dict[int, float] = {}
        self._pauses_ms: list[float] = []
        for number in range(CROWD):
            job = engine.generate(
                ("user", STORIES[number]), max_tokens=900, adapter=adapters[number % len(adapters)], logit_bias=ENDLESS
            )
            self._last[job] = 0.0
        while not all(self._last.values()):
            self._next()
        self._rest(2 * REST_STEPS)

    @property
    def usual_pause_ms(self) -> float:
        """Median time between tokens of a stream."""
        return median(self._pauses_ms)

    def probe(self, number: int, adapter: str, file: Path | None) -> Probe:
        """One request, made right after a step of the others; with `file`, its adapter is given before it."""
        self._pauses_ms, before = [], self._pauses_ms
        turns = [("system", f"Case {number}."), ("user", STORIES[number % len(STORIES)])]  # a prompt like no other
        asked = time.monotonic()
        if file is not None:
            self._engine.give(file, adapter)
        job = self._engine.generate(*turns, max_tokens=1, adapter=adapter)
        while not (isinstance(frame := self._next(), frames.Tokens) and frame.job == job):
            pass
        first_token_ms = (time.monotonic() - asked) * 1000
        self._rest(1)
        probe = Probe(first_token_ms, max(self._pauses_ms))
        self._pauses_ms = before
        self._rest(REST_STEPS)
        return probe

    def ready_ms(self, digest: str, path: Path) -> float:
        """Sends an adapter; the time until the engine has mapped, checked and scaled it: then it answers pings."""
        started = time.monotonic()
        self._engine.give(path, digest)
        self._engine.send(frames.Ping())
        while not isinstance(self._next(), frames.Pong):
            pass
        return (time.monotonic() - started) * 1000

    def leave(self) -> None:
        """Ends them."""
        for job in self._last:
            self._engine.send(frames.Cancel(job, "cancelled"))
        self._engine.done(len(self._last))

    def _rest(self, num_steps: int) -> None:
        """Lets the others go on for some steps; the last token of a step has come then."""
        *_, last = self._last
        for _ in range(num_steps):
            while not (isinstance(frame := self._next(), frames.Tokens) and frame.job == last):
                pass

    def _next(self) -> frames.FromEngine:
        frame, now = self._engine.next(), time.monotonic()
        if isinstance(frame, frames.Tokens) and frame.job in self._last:
            if before := self._last[frame.job]:
                self._pauses_ms.append((now - before) * 1000)
            self._last[frame.job] = now
        return frame


def _rare(report: Report, model: Path, adapters: list[Path], folder: Path, runs: int, num_rare: int) -> None:
    engine = EngineProcess(model, parallel=SLOTS, context_tokens=512, adapter_slots=SLOTS, cache_dir=folder)
    common, rare = engine.give(adapters[0]), engine.give(adapters[1])
    numbers = count()
    _rare_ratio(engine, common, rare, 1, numbers)  # the first request of each brings its adapter in
    ratios = [_rare_ratio(engine, common, rare, num_rare, numbers) for _ in range(runs)]
    engine.close()
    report.add("rare_adapter_first_token_ratio", "first token: one on B / median of five clients on A", "", ratios, 2.0)


def _rare_ratio(engine: EngineProcess, common: str, rare: str, num_rare: int, numbers: Iterator[int]) -> float:
    """Median first-token time of requests on `rare`, now and then, over that of clients which always ask `common`."""
    asked: dict[int, float] = {}
    first_ms: dict[str, list[float]] = {common: [], rare: []}

    def ask(adapter: str) -> int:
        number = next(numbers)
        story = f"{STORIES[number % len(STORIES)]} Chapter {number}."
        job = engine.generate(
            ("user", story), max_tokens=24 + number * 7 % 48, adapter=adapter, logit_bias=ENDLESS
        )  # fmt: skip
        asked[job] = time.monotonic()
        return job

    adapter_of = {ask(common): common for _ in range(COMMON_CLIENTS)}
    steps = 0
    while adapter_of:
        frame = engine.next()
        if isinstance(frame, frames.Tokens):
            adapter = adapter_of[frame.job]
            if frame.job in asked:
                first_ms[adapter].append((time.monotonic() - asked.pop(frame.job)) * 1000)
            steps = 0 if rare in adapter_of.values() else steps + 1
        elif isinstance(frame, frames.Done) and adapter_of.pop(frame.job) == common and len(first_ms[rare]) < num_rare:
            adapter_of[ask(common)] = common
        if steps >= STEPS_BETWEEN_RARE * COMMON_CLIENTS and len(first_ms[rare]) < num_rare:
            adapter_of[ask(rare)] = rare
            steps = 0
    return median(first_ms[rare]) / median(first_ms[common][COMMON_CLIENTS:])  # the first ones came all at once
