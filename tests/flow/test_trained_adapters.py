"""The adapters that ship, on the real model: what the base alone cannot do, they do.

The examples are the blind test's, so what fails here says how many were right and shows none.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from training.evaluate import Judge, scores_of
from training.task import Example
from training.tasks import SHIPPED, TASKS

# Far below the scores in the cards, so that the first held-out examples may be the hardest.
LEAST_RIGHT = 0.6
MOST_RIGHT_ALONE = 0.34


@pytest.fixture(scope="module")
def judge(model: Path) -> Iterator[Judge]:
    """An engine with the default model."""
    judge = Judge(model)
    yield judge
    judge.close()


@pytest.mark.parametrize("name", TASKS)
def test_held_out_examples_are_answered(judge: Judge, name: str) -> None:
    """With its adapter the model answers most of what training never saw, always in the form that was asked for."""
    task, adapter = TASKS[name], SHIPPED / f"{name}.gguf"
    examples = task.examples("held_out")[:16]
    scores = judge.scores(task, examples, adapter, is_fitted=True)
    assert scores.valid == 1
    assert scores.right >= LEAST_RIGHT
    alone = judge.scores(task, examples[:6], None, is_fitted=True)
    assert alone.right <= MOST_RIGHT_ALONE


def test_answers_are_compared_as_values() -> None:
    """Spaces do not matter, what fits no schema counts for nothing, and a wrong cause is not exact but right."""
    task = TASKS["log-triage"]
    wanted = '{"severity":"info","component":"power","cause":"ups is fine"}'
    answers = [
        wanted,
        wanted.replace(":", ": "),
        wanted.replace("ups", "sun"),
        wanted.replace("info", "error"),
        wanted.replace("info", "bad"),
        "It is fine.",
    ]
    scores = scores_of(task, [Example(f"line {number}", wanted) for number in range(len(answers))], answers)
    assert (scores.num, scores.valid, scores.exact, scores.right) == (6, 4 / 6, 2 / 6, 3 / 6)
