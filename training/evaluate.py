"""How many held-out examples an adapter answers right, asked in the project's own engine, greedily.

An answer is valid when it is JSON that fits the task's schema; exact when it is the expected value, whatever its
spaces; right when what `Task.label` takes from it is the expected one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from agent.engine.grammar import fits
from tests.fakes.engine import EngineProcess
from training.task import Example, Task

STREAMS = 8
CONTEXT_TOKENS = 384


class Scores(msgspec.Struct, frozen=True):
    """Shares of answers, from 0 to 1."""

    num: int
    valid: float
    exact: float
    right: float


class Judge:
    """An engine with one model, that is asked a task's examples with an adapter or without."""

    def __init__(self, model: Path) -> None:
        self._engine = EngineProcess(model, parallel=STREAMS, context_tokens=CONTEXT_TOKENS)

    def scores(self, task: Task, examples: list[Example], adapter: Path | None, *, is_fitted: bool) -> Scores:
        """The scores of the answers."""
        return scores_of(task, examples, self.answers(task, examples, adapter, is_fitted=is_fitted))

    def answers(self, task: Task, examples: list[Example], adapter: Path | None, *, is_fitted: bool) -> list[str]:
        """What is answered to each example; with `is_fitted` the engine lets only what fits the schema be said."""
        digest = self._engine.give(adapter) if adapter else None
        texts: dict[int, str] = {}
        jobs: dict[int, int] = {}
        for at in self._turns(len(examples), jobs, texts):
            job = self._engine.generate(
                ("system", task.system),
                ("user", examples[at].text),
                max_tokens=task.max_answer_tokens,
                output_schema=task.schema if is_fitted else None,
                adapter=digest,
            )
            jobs[job] = at
        return [texts[at] for at in range(len(examples))]

    def close(self) -> None:
        """Ends the engine."""
        self._engine.close()

    def _turns(self, count: int, jobs: dict[int, int], texts: dict[int, str]) -> Iterator[int]:
        """The numbers of examples, each when there is a stream for it; puts the answers into `texts` meanwhile."""
        for at in range(count + STREAMS):
            if len(jobs) - len(texts) >= STREAMS or (at >= count and len(texts) < len(jobs)):
                for job, end in self._engine.done().items():
                    texts[jobs[job]] = end.text
            if at < count:
                yield at


def scores_of(task: Task, examples: list[Example], answers: list[str]) -> Scores:
    """Compares answers with what was expected."""
    valid = exact = right = 0
    for example, answer in zip(examples, answers, strict=True):
        if not fits(task.schema, answer):
            continue
        valid += 1
        said, wanted = json.loads(answer), json.loads(example.answer)
        exact += said == wanted
        right += task.label(said) == task.label(wanted)
    count = len(examples)
    return Scores(count, valid / count, exact / count, right / count)


def mistakes(task: Task, examples: list[Example], answers: list[str]) -> list[dict[str, Any]]:
    """The examples whose answer is not exact, with what was said."""
    return [
        {"text": example.text, "wanted": example.answer, "said": answer, "new": example.new}
        for example, answer in zip(examples, answers, strict=True)
        if not fits(task.schema, answer) or json.loads(answer) != json.loads(example.answer)
    ]
