"""Whether the exported file says what was trained: logits of transformers against those of llama.cpp."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes.oracle import Oracle, Question
from training.task import Example, Task

MAX_TOKENS = 48


def logit_difference(
    task: Task, examples: list[Example], base_f32: Path, adapter: Path, logits: Callable[[list[int]], Any]
) -> float:
    """The largest difference of any logit over greedy answers.

    `logits` is transformers' side: tokens from the user turn on → what is said after each of them. Both sides compute
    in 32 bits: llama.cpp rounds activations to 8 bits where weights are quantised, which moves logits by up to 0.9.
    """
    oracle = Oracle(base_f32)
    largest = 0.0
    for example in examples:
        turns = (("system", task.system), ("user", example.text))
        prompt = oracle.prompt(turns)
        answer = oracle.answer(Question(turns, adapter, "user"), MAX_TOKENS)
        asked = prompt.tokens[prompt.user :]
        ours = logits(asked + answer.tokens[:-1])[len(asked) - 1 :]
        largest = max(largest, float(np.abs(ours - np.array(answer.logits)).max()))
    oracle.close()
    return largest
