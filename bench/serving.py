"""A whole node over MQTT beside llama-server over HTTP, the same requests for both.

Both run with two threads and 16 streams of 1024 tokens, and both have all adapters loaded before the first
measurement. Bounded spinning (GOMP_SPINCOUNT) is ours by default; llama-server gets it too, except where it runs with
its default settings.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from agent.engine.llama import Model
from agent.engine.template import ChatTemplate
from bench import load
from bench.clients import Answering, closed_loop, open_loop
from bench.decoding import tell
from bench.llama_server import LlamaServer
from bench.load import STORIES, Answer, Ask
from bench.node import Node
from bench.report import RUNS, Report
from tests.fakes.engine import EngineProcess

CONTEXT_TOKENS = 1024
STREAMS = 16
ADAPTERS = 8
ANSWER_TOKENS = 128
# With fewer the run ends before a starved request of the peer has waited for long: its longest time is the run's.
MIXED_ASKS = 56
SPINNING = {"GOMP_SPINCOUNT": "1000"}
# A little more than both can answer, so that speed shows in throughput and in waiting alike.
ARRIVALS_PER_S = 4.0
SYSTEM_WORDS = 505  # with what stands around them a turn of about 512 tokens
BUSY_STREAMS = 8

_numbers = count()


def measure(
    report: Report, model: Path, peer: Path | None, adapters: Sequence[Path], folder: Path, *, quick: bool
) -> None:
    """Rows that need no peer are measured without one."""
    with ExitStack() as stack:
        node = Node(folder, model, parallel=STREAMS, context_tokens=CONTEXT_TOKENS, adapters=adapters)
        stack.callback(node.close)
        sides = [node.answer]
        if peer is not None:
            flags = ["-t", "2", "-np", str(STREAMS), "-c", str(CONTEXT_TOKENS * STREAMS)]
            server = LlamaServer(peer, model, *flags, adapters=adapters, **SPINNING)
            stack.callback(server.close)
            sides.append(server.answer)
        for side in sides:
            closed_loop(side, [_story(adapter, 4) for adapter in range(ADAPTERS)], ADAPTERS)
        runs = 1 if quick else RUNS
        _prefix(report, model, sides, runs)
        if peer is not None:
            _open(report, sides, runs, 6 if quick else 20)
        _mixed(report, sides, runs, *((24, 16) if quick else (MIXED_ASKS, ANSWER_TOKENS)))
    if peer is not None:
        _busy(report, model, peer, runs, 48)


def _story(adapter: int | None, num_tokens: int, at_s: float = 0.0) -> Ask:
    number = next(_numbers)
    story = f"{STORIES[number % len(STORIES)]} Chapter {number}."
    return Ask([("user", story)], num_tokens, adapter, at_s=at_s)


def _open(report: Report, sides: Sequence[Answering], runs: int, num_asks: int) -> None:
    """One adapter; requests come as they like."""
    speeds, waits = [], []
    for run in range(runs):
        times = load.poisson_times(num_asks, ARRIVALS_PER_S, run)
        asks = [_story(0, 32 + 16 * (number % 5), at_s) for number, at_s in enumerate(times)]
        ours, theirs = (open_loop(side, asks) for side in sides)
        speeds.append(load.throughput(ours) / load.throughput(theirs))
        waits.append(load.total_s(ours, 0.95) / load.total_s(theirs, 0.95))
    title = "one adapter, Poisson arrivals"
    report.add("llama_server_throughput_ratio", f"{title}: throughput / llama-server", "", speeds, at_least=1.0)
    report.add("llama_server_p95_ratio", f"{title}: p95 answer time / llama-server", "", waits, 1.0)


def _mixed(report: Report, sides: Sequence[Answering], runs: int, num_asks: int, num_tokens: int) -> None:
    """Eight adapters, of which the first is asked most, by clients that always ask."""
    done: list[list[list[Answer]]] = []
    for run in range(runs):
        asks = [_story(adapter, num_tokens) for adapter in load.zipf_mix(num_asks, ADAPTERS, run)]
        done.append([closed_loop(side, asks, STREAMS) for side in sides])
    speeds = [[load.throughput(answers, load.crowded_until(answers)) for answers in one] for one in done]
    longest = [[load.total_s(answers, 1.0) for answers in one] for one in done]
    report.add("mixed_tok_s", "8 adapters (Zipf), 16 clients: throughput", "tok/s", [ours for ours, *_ in speeds])
    if len(sides) > 1:
        report.add(
            "mixed_adapters_ratio", "the same / llama-server", "", [ours / theirs for ours, theirs in speeds],
            at_least=1.75,
        )  # fmt: skip
        report.add(
            "mixed_longest_ratio", "llama-server's longest answer time / ours", "",
            [theirs / ours for ours, theirs in longest], at_least=5,
        )  # fmt: skip
    ours = [one[0] for one in done]
    report.add(
        "mixed_max_wait_over_median", "our longest answer time / our median", "",
        [load.total_s(answers, 1.0) / load.total_s(answers, 0.5) for answers in ours], 3,
    )  # fmt: skip
    report.add(
        "mixed_jain", "Jain's index of the adapters' tokens/s per request", "",
        [load.jain(load.speeds_by_adapter(answers)) for answers in ours], at_least=0.9,
    )  # fmt: skip


def _prefix(report: Report, model: Path, sides: Sequence[Answering], runs: int) -> None:
    """16 requests at once with the same system turn: for one adapter, and for eight that act from the user turn on."""
    template = ChatTemplate(Model(str(model), use_extra_bufts=False, use_mmap=True))
    computed, ratios = [], []
    asks: list[Ask] = []
    ours: list[Answer] = []
    for _ in range(runs):
        worst = 0.0
        for num_adapters in (1, ADAPTERS):
            asks = _common_beginning(num_adapters)
            prefix = template.prompt(asks[0].turns).user
            ours = open_loop(sides[0], asks)
            done = sum(answer.prompt_tokens - answer.cached_tokens for answer in ours)
            worst = max(worst, done / (prefix + sum(answer.prompt_tokens - prefix for answer in ours)))
        computed.append(worst)
        if len(sides) > 1:  # what the eight adapters were asked
            ratios.append(load.first_token_s(open_loop(sides[1], asks), 0.5) / load.first_token_s(ours, 0.5))
    title = "16 requests at once with a system prompt of 512 tokens"
    report.add("shared_prefix_computed_ratio", f"{title}: computed / needed", "", computed, 1.1)
    if ratios:
        report.add(
            "shared_prefix_first_token_ratio", "8 adapters: llama-server's first token, p50 / ours", "", ratios,
            at_least=5,
        )  # fmt: skip


def _common_beginning(num_adapters: int) -> list[Ask]:
    system = f"Case {next(_numbers)}: " + "the house has a room and " * (SYSTEM_WORDS // 6)
    return [
        Ask(
            [("system", system), *_story(None, 0).turns],
            max_tokens=2,
            adapter=number % num_adapters,
            activation="user" if num_adapters > 1 else None,
        )
        for number in range(STREAMS)
    ]


def _busy(report: Report, model: Path, peer: Path, runs: int, num_tokens: int) -> None:
    """Eight streams while one core has other work; llama-server chooses its settings itself."""
    ratios = []
    with ExitStack() as stack:
        engine = EngineProcess(model, parallel=BUSY_STREAMS, context_tokens=CONTEXT_TOKENS)
        stack.callback(engine.close)
        server = LlamaServer(peer, model, "-np", str(BUSY_STREAMS), "-c", str(CONTEXT_TOKENS * BUSY_STREAMS))
        stack.callback(server.close)
        stack.enter_context(_busy_core())
        for _ in range(runs):
            ours = load.decoding_tok_s(tell(engine, BUSY_STREAMS, num_tokens))
            asks = [_story(None, num_tokens // 3) for _ in range(BUSY_STREAMS)]
            ratios.append(ours / load.decoding_tok_s(open_loop(server.answer, asks)))
    report.add("busy_core_ratio", "one busy core, 8 streams: decoding / llama-server", "", ratios, at_least=5)


@contextmanager
def _busy_core() -> Iterator[None]:
    """A process that never rests."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.5)
            yield
        finally:
            busy.kill()
