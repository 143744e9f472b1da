"""The engine under a limit of its address space: enough for all that is ordinary, and a clean end when it is not."""

import resource
from pathlib import Path

import pytest

from agent.engine import frames
from agent.engine.address_space import MIB, address_space_bytes
from tests.fakes.engine import EngineProcess

LONG = "count the stars " * 50  # about 150 tokens


def _kib(engine: EngineProcess, name: str) -> int:
    lines = Path(f"/proc/{engine.process.pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_sixteen_long_requests_together_stay_far_below_the_limit(model: Path) -> None:
    """The limit that the daemon sets is more than twice of what the largest ordinary load takes."""
    weights_bytes = model.stat().st_size
    limit = address_space_bytes(weights_bytes=weights_bytes, kv_bytes=16 * 2048 * weights_bytes // 1000, threads=2)
    engine = EngineProcess(model, parallel=16, context_tokens=2048, address_space_bytes=limit)
    for number in range(16):
        engine.generate(("user", f"{number} {LONG}"), max_tokens=4)
    ends = engine.done(16)
    peak = _kib(engine, "VmPeak") * 1024
    engine.close()
    assert all(end.prompt_tokens > 150 and end.completion_tokens > 0 for end in ends.values())
    assert peak < limit / 2


@pytest.mark.parametrize("more_mib", [0, 20, 90, 100, 180, 200, 250, 400])
def test_what_cannot_be_loaded_says_so_or_ends(model: Path, more_mib: int) -> None:
    """Whatever the loading fails at, the engine says that it cannot, or its process is gone; it never hangs."""
    try:
        engine = EngineProcess(model, parallel=4, context_tokens=2048, address_space_bytes=(130 + more_mib) * MIB)
    except (AssertionError, ConnectionError):
        return  # it ended
    assert isinstance(engine.ready, frames.Broken | frames.Ready)
    engine.close()


@pytest.mark.parametrize("more_mib", [0, 1, 4, 16])
def test_engine_that_runs_out_while_it_answers_ends_or_answers(model: Path, more_mib: int) -> None:
    """Each request is answered, or the process is gone, so that the daemon starts another; it never hangs."""
    engine = EngineProcess(model, parallel=4, context_tokens=2048)
    limit = _kib(engine, "VmSize") * 1024 + more_mib * MIB
    resource.prlimit(engine.process.pid, resource.RLIMIT_AS, (limit, limit))
    schema = {"type": "object", "properties": {f"p{n}": {"enum": [f"v{n}" * 50]} for n in range(100)}}
    for number in range(4):
        engine.generate(("user", f"{number} {LONG * 2}"), max_tokens=8, output_schema=schema if number % 2 else None)
    try:
        ended = 0
        while ended < 4:
            ended += isinstance(engine.next(), frames.Done | frames.Rejected)
    except (AssertionError, ConnectionError):
        assert engine.process.wait(30) != 0
    engine.close()
