"""Examples as tokens, made by the engine's own tokenizer and chat template, so that training and serving agree."""

from pathlib import Path
from typing import NamedTuple

from agent.engine.llama import Model
from agent.engine.template import ChatTemplate
from training.task import Example, Task


class Lesson(NamedTuple):
    """Tokens from the user turn's first one to the end of the answer; the first `num_asked` are not the answer's."""

    tokens: list[int]
    num_asked: int


def lessons_of(task: Task, examples: list[Example], model_file: Path) -> tuple[list[int], list[Lesson]]:
    """The tokens before the user turn, which all examples share, and each example's own."""
    model = Model(str(model_file), use_extra_bufts=False, use_mmap=True)
    template = ChatTemplate(model)
    end = model.tokenize("<|im_end|>", special=True)
    prefix: list[int] = []
    lessons = []
    for example in examples:
        prompt = template.prompt([("system", task.system), ("user", example.text)])
        prefix = prompt.tokens[: prompt.user]
        asked = prompt.tokens[prompt.user :]
        lessons.append(Lesson(asked + model.tokenize(example.answer, special=False) + end, len(asked)))
    model.close()
    return prefix, lessons
