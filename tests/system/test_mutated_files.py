"""Damaged files: what the validators let pass must not kill llama.cpp."""

import contextlib
import copy
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.weights.adapter import check_adapter, check_finite, read_adapter
from agent.weights.base_model import read_base
from agent.weights.gguf import GgufError
from tests.fakes.adapters import adapter_builder
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.mutations import damage_bytes, damage_values
from tests.fakes.tiny_model import tiny_model, tiny_qwen2, write_tiny_model

FILES_OF_EACH_KIND = int(os.environ.get("SHOAL_TEST_MUTATIONS", "100"))
HANGS_S = 20  # a file takes 2 ms
FIRST_SEED = int(os.environ.get("SHOAL_TEST_MUTATIONS_SEED", "0"))


class Loader:
    """A process of llama.cpp, replaced when it has died."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._process = self._start()

    def try_file(self, kind: str, path: Path) -> str:
        """What came of a file: "loaded", "refused", or how the process died; of SIGKILL when it hung."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{kind} {path}\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], HANGS_S)[0]:
            self._process.kill()
        answer = self._process.stdout.readline().strip()
        if answer:
            return answer
        code = self._process.wait()
        self._process = self._start()
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.loader", str(self._base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )


@pytest.mark.timeout(120)
def test_what_validators_accept_does_not_kill_llama_cpp(tmp_path: Path) -> None:
    """500 damaged files, 200 of them adapters: each is refused, or loaded and computed with."""
    base_path = write_tiny_model(tmp_path / "base.gguf")
    base = read_base(base_path.read_bytes())

    def check_base(raw: bytes) -> None:
        read_base(raw)

    def check_lora(raw: bytes) -> None:
        adapter = read_adapter(raw)
        check_adapter(adapter, base)
        check_finite(raw, adapter)

    cases: list[tuple[str, GgufBuilder, Callable[[bytes], None]]] = [
        ("base", tiny_model(), check_base),
        ("base", tiny_model(tokenizer="llama"), check_base),
        ("base", tiny_qwen2(), check_base),
        ("adapter", adapter_builder(base_path, rank=4), check_lora),
        ("adapter", adapter_builder(base_path, rank=8, dtype="f32", activation="user"), check_lora),
    ]
    loader = Loader(base_path)
    outcomes: Counter[str] = Counter()
    deaths = []
    for number, (kind, builder, check) in enumerate(cases):
        check(builder.build())
        for seed in range(FIRST_SEED, FIRST_SEED + FILES_OF_EACH_KIND):
            dice = random.Random(f"{number} {seed}")
            mutant = damage_bytes(builder.build(), dice) if seed % 2 else damage_values(copy.deepcopy(builder), dice)
            try:
                check(mutant)
            except GgufError:
                outcomes["refused by us"] += 1
                continue
            path = tmp_path / f"{number}-{seed}.gguf"
            path.write_bytes(mutant)
            outcome = loader.try_file(kind, path)
            outcomes[outcome] += 1
            if outcome not in ("loaded", "refused"):
                deaths.append(f"case {number} ({kind}), seed {seed}: {outcome}, {path}")
    loader.close()
    assert not deaths, "\n".join(deaths)
    assert outcomes["loaded"] > 0  # some damage is harmless: the test does reach llama.cpp
    assert outcomes["refused by us"] > outcomes.total() / 2
