"""What a model is said to need is what its engine takes."""

from pathlib import Path

import pytest

from agent.weights.base_model import read_base_file
from agent.weights.memory import memory_bytes
from tests.fakes.engine import EngineProcess


def resident_bytes(pid: int) -> int:
    """RSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize(("parallel", "context_tokens"), [(1, 256), (4, 2048)])
def test_an_engine_takes_the_memory_that_was_foretold(model: Path, parallel: int, context_tokens: int) -> None:
    """Not more, so that nothing is started that cannot fit, and not much less, so that nothing is refused that can."""
    base = read_base_file(model)
    engine = EngineProcess(model, parallel=parallel, context_tokens=context_tokens)
    for _ in range(parallel):
        engine.generate(("user", "Tell me a story of a ship. " * 8), max_tokens=8)
    engine.done(parallel)
    taken = resident_bytes(engine.process.pid)
    engine.close()
    foretold = memory_bytes(base, base.num_bytes, parallel * context_tokens, sequences=parallel)
    assert 0.8 * foretold < taken <= foretold
