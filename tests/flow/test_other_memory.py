"""Models whose memory cannot be cut or moved like a plain key-value cache answer as if alone, too.

Parking, following, taking over, growing and what follows a cancel all cut and move memory. Where that is not possible,
it is computed again.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.engine import EngineProcess
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.oracle import Oracle, Question
from tests.fakes.tiny_memory import tiny_gemma2, tiny_mamba

NOISE = 0.01  # see test_contamination.py
NUM_MIXES = 60
SYSTEM = ("system", "You speak for a house of nine rooms, with lamps. " * 2)
QUESTIONS = [
    *(Question((SYSTEM, ("user", text))) for text in ("Who?", "Which lamps are there then?", "A fish")),
    Question((("user", "Go on and on with that."),)),
]


@pytest.mark.parametrize("make", [tiny_mamba, tiny_gemma2])
@pytest.mark.parametrize("parallel", [3, 8])
def test_no_answer_depends_on_what_else_runs(tmp_path: Path, make: Callable[[], GgufBuilder], parallel: int) -> None:
    """Greedy answers are the same alone and in any mix of priorities, arrivals and cancels."""
    path = tmp_path / "model.gguf"
    path.write_bytes(make().build())
    oracle = Oracle(path)
    assert len({oracle.text(question, 60) for question in QUESTIONS}) == len(QUESTIONS)
    chance = random.Random(1)
    engine = EngineProcess(path, parallel=parallel, context_tokens=512, prefix_cache_bytes=1 << 20)
    num_cut = 0
    for _ in range(NUM_MIXES):
        asked: dict[int, Question] = {}
        for _ in range(chance.randint(2, 9)):
            question = chance.choice(QUESTIONS)
            number = engine.generate(
                *question.turns, max_tokens=chance.randint(1, 60), priority=chance.choice([0, 4, 4, 9])
            )
            asked[number] = question
            engine.read(chance.choice([0, 1, 5, 20]))
            if chance.random() < 0.15:
                engine.cancel(chance.choice(list(asked)))
        for number, done in engine.done(len(asked)).items():
            num_cut += done.finish_reason == "cancelled"
            difference = oracle.difference(asked[number], engine.tokens.get(number, []))
            assert difference is None or difference.margin <= NOISE, (number, difference, done)
    engine.close()
    oracle.close()
    assert num_cut > 5
