"""The engine beside llama.cpp's own programs: same file, same flags, same run. See `bench/peers.md`.

Decoding is compared with llama-batched-bench, which does nothing but decode: what is missing to 1 is the price of
sampling, text, stop strings, sockets and Python. Ratios are taken pair by pair, ours and the peer's right after each
other, because the machine's speed changes more between minutes than the two differ.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from agent.engine import frames
from agent.engine.__main__ import BATCH_TOKENS
from agent.models import DEFAULT_FILE
from bench.report import Report, percentile
from tests.fakes.engine import EngineProcess

RUNS = 5
MODEL = Path(".shoal/models") / DEFAULT_FILE
STREAMS = (1, 4, 8)
PROMPT_TOKENS = 40
CONTEXT_TOKENS = 1024
# Long answers, so that all streams decode together for a while.
STORIES = [
    f"Tell a very long story about {who}."
    for who in ("a cat", "a dog", "a ship", "a king", "a tree", "a car", "a star", "a robot")
]
LONG_PROMPT = "count the stars " * 650  # about 2,000 tokens
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"items": {"type": "array", "minItems": 40, "maxItems": 40, "items": {"type": "integer"}}},
    "required": ["items"],
}


def run(report: Report, *, quick: bool, peer: Path | None) -> None:
    """Measures; without `peer` only what needs none."""
    num_tokens = 24 if quick else 128
    engine = EngineProcess(MODEL.resolve(), parallel=max(STREAMS), context_tokens=CONTEXT_TOKENS)
    for streams in STREAMS:
        ours, ratios = [], []
        for _ in range(RUNS):
            speed = _decode_tok_s(engine, streams, num_tokens)
            ours.append(speed)
            if peer is not None:
                ratios.append(speed / _batched_bench_tok_s(peer, streams, num_tokens))
        report.add(f"engine_tok_s_{streams}", f"decoding, {streams} streams", "tok/s", ours)
        if ratios:
            measure = f"decoding, {streams} streams / llama-batched-bench"
            report.add(f"batched_bench_ratio_{streams}", measure, "", ratios, at_least=0.95)
    report.add("grammar_speed_ratio", "fitted to a schema / free", "", _grammar_ratios(engine), at_least=0.9)
    engine.close()
    engine = EngineProcess(MODEL.resolve(), parallel=2, context_tokens=4096)
    stops = [[_cancel_ms(engine) for _ in range(2 if quick else 20)] for _ in range(RUNS)]
    engine.close()
    report.add(
        "cancel_ms_p99", "cancel in a 2,000-token prompt until it stopped, p99", "ms",
        [percentile(one_run, 0.99) for one_run in stops], 30.0,
    )  # fmt: skip


def _decode_tok_s(engine: EngineProcess, streams: int, num_tokens: int) -> float:
    """Tokens a second while all streams decode."""
    jobs = {engine.generate(("user", story), max_tokens=num_tokens) for story in STORIES[:streams]}
    began: dict[int, float] = {}
    count = 0
    while True:
        frame = engine.next()
        now = time.monotonic()
        if isinstance(frame, frames.Done):
            break
        if isinstance(frame, frames.Tokens):
            began.setdefault(frame.job, now)
            count += len(began) == len(jobs)
    speed = (count - 1) / (now - max(began.values()))
    engine.done(streams - 1)
    return speed


def _batched_bench_tok_s(peer: Path, streams: int, num_tokens: int) -> float:
    """What llama-batched-bench says of the same work."""
    command = [
        str(peer / "bin/llama-batched-bench"), "-m", str(MODEL.resolve()), "-c", str(CONTEXT_TOKENS * streams),
        "-b", str(BATCH_TOKENS), "-ub", str(BATCH_TOKENS), "-npp", str(PROMPT_TOKENS), "-ntg", str(num_tokens),
        "-npl", str(streams), "-t", "2", "--output-format", "jsonl",
    ]  # fmt: skip
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return float(rows[-1]["speed_tg"])


def _grammar_ratios(engine: EngineProcess) -> list[float]:
    """Speed of a constrained answer over a free one, one stream, pair by pair."""
    ratios = []
    for _ in range(RUNS):
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
