"""Plain decoding beside llama-batched-bench, which does nothing else.

What is missing to 1 is the price of sampling, text, stop strings, sockets and Python.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from agent.engine import frames
from agent.engine.frames import BATCH_TOKENS
from bench.load import ENDLESS, STORIES, Answer, decoding_tok_s
from bench.report import RUNS, Report, percentile
from tests.fakes.engine import EngineProcess

STREAMS = (1, 4, 8)
PROMPT_TOKENS = 40
CONTEXT_TOKENS = 1024
LONG_PROMPT = "count the stars " * 650  # about 2,000 tokens
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"items": {"type": "array", "minItems": 40, "maxItems": 40, "items": {"type": "integer"}}},
    "required": ["items"],
}


def measure(report: Report, model: Path, peer: Path | None, *, quick: bool) -> None:
    """Speed of 1, 4 and 8 streams; of constrained answers; and how soon a cancel takes effect."""
    runs, num_tokens, num_cancels = (2, 24, 4) if quick else (RUNS, 64, 6)
    engine = EngineProcess(model, parallel=max(STREAMS), context_tokens=CONTEXT_TOKENS)
    for streams in STREAMS:
        ours, ratios = [], []
        for _ in range(runs):
            speed = decoding_tok_s(tell(engine, streams, num_tokens))
            ours.append(speed)
            if peer is not None:
                ratios.append(speed / _batched_bench_tok_s(peer, model, streams, num_tokens))
        report.add(f"engine_tok_s_{streams}", f"decoding, {streams} streams", "tok/s", ours)
        if ratios:
            row, title = f"batched_bench_ratio_{streams}", f"decoding, {streams} streams / llama-batched-bench"
            report.add(row, title, "", ratios, at_least=0.95)
    report.add("grammar_speed_ratio", "fitted to a schema / free", "", _grammar_ratios(engine, runs), at_least=0.9)
    engine.close()
    engine = EngineProcess(model, parallel=2, context_tokens=4096)
    stops = [[_cancel_ms(engine) for _ in range(num_cancels)] for _ in range(runs)]
    engine.close()
    report.add(
        "cancel_ms_p99", "cancel in a 2,000-token prompt until it stopped, p99", "ms",
        [percentile(one_run, 0.99) for one_run in stops], 30.0,
    )  # fmt: skip


def tell(engine: EngineProcess, streams: int, num_tokens: int, adapters: list[str] | None = None) -> list[Answer]:
    """So many long answers at once; with `adapters`, the digest of each one's.

    A random adapter may end its answers soon; forbidding that costs 0.2 ms a token, so the bare model is just asked.
    """
    jobs = {}
    for number in range(streams):
        adapter = adapters[number] if adapters else None
        story = f"{STORIES[number % len(STORIES)]} Chapter {number}."
        job = engine.generate(
            ("user", story), max_tokens=num_tokens, adapter=adapter, logit_bias=ENDLESS if adapter else None
        )
        jobs[job] = time.monotonic()
    tokens: dict[int, list[tuple[float, int]]] = {job: [] for job in jobs}
    answers: list[Answer] = []
    while len(answers) < streams:
        frame = engine.next()
        now = time.monotonic()
        if isinstance(frame, frames.Tokens):
            tokens[frame.job].append((now, len(frame.tokens)))
        elif isinstance(frame, frames.Done):
            answers.append(Answer(None, jobs[frame.job], tokens[frame.job], now))
    return answers


def _batched_bench_tok_s(peer: Path, model: Path, streams: int, num_tokens: int) -> float:
    """What llama-batched-bench says of the same work."""
    command = [
        str(peer / "bin/llama-batched-bench"), "-m", str(model), "-c", str(CONTEXT_TOKENS * streams),
        "-b", str(BATCH_TOKENS), "-ub", str(BATCH_TOKENS), "-npp", str(PROMPT_TOKENS), "-ntg", str(num_tokens),
        "-npl", str(streams), "-t", "2", "--output-format", "jsonl",
    ]  # fmt: skip
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return float(rows[-1]["speed_tg"])


def _grammar_ratios(engine: EngineProcess, runs: int) -> list[float]:
    """Speed of a constrained answer over a free one, one stream, pair by pair."""
    ratios = []
    for _ in range(runs):
        free = _speed(engine, None)
        ratios.append(_speed(engine, SCHEMA) / free)
    return ratios


def _speed(engine: EngineProcess, schema: dict[str, Any] | None) -> float:
    number = engine.generate(("user", STORIES[0]), max_tokens=96, output_schema=schema)
    first, count, now = 0.0, 0, 0.0
    while True:
        frame = engine.next()
        if isinstance(frame, frames.Done) and frame.job == number:
            return count / (now - first)
        if isinstance(frame, frames.Tokens):
            now = time.monotonic()
            first = first or now
            count += now > first


def _cancel_ms(engine: EngineProcess) -> float:
    """Time from the cancel of a long prompt to its end, in ms."""
    number = engine.generate(("user", f"{time.monotonic_ns()} {LONG_PROMPT}"), max_tokens=4)
    time.sleep(0.3)  # somewhere in the middle of the prompt
    started = time.monotonic()
    engine.send(frames.Cancel(number, "cancelled"))
    engine.done()
    return (time.monotonic() - started) * 1000
