"""The examples that adapters are trained on, and those that they are judged by.

The held-out ones are a blind test, so what fails here says how many there are and never shows one: no assertion looks
at a text, since pytest would print it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import jsonschema
import msgspec
import pytest

from contract.json_schema import check_schema
from training import home, triage
from training.task import Example, Task, digest_of_examples
from training.tasks import TASKS
from training.words import Split, Words

SPLITS: tuple[Split, ...] = get_args(Split)
EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def lists_in(value: Any) -> Iterator[Words]:
    """All lists in a file of words, issues with their messages among them."""
    if isinstance(value, Words):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from lists_in(part)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from lists_in(getattr(value, name))


def lists_of(task: Task) -> list[Words]:
    """All lists of a task."""
    return list(lists_in(home.LISTS if task is home.TASK else triage.LISTS))


ANYTHING = ".*"
WITHIN_A_CLAUSE = r"(?:(?! and | then )[^.,;:?\n])*"


def pieces_of(template: str) -> list[str]:
    """A word, or a template's own words between what is filled in."""
    pieces = [piece.strip(" .,:;?%[]()'") for piece in re.split(r"\{\w+\}", template)]
    return [re.escape(piece) for piece in pieces if piece]


def is_in(template: str, texts: str) -> bool:
    """Whether a word or template stands in any of the lines; a thing ({x}) ends where a clause does."""
    words = (WITHIN_A_CLAUSE if "{x}" in template else ANYTHING).join(pieces_of(template))
    return bool(re.search(rf"(?<!\w){words}(?!\w)", texts, re.IGNORECASE))


@EACH_TASK
def test_examples_are_the_same_every_time(task: Task) -> None:
    """A seed is all that the examples depend on."""
    for split in SPLITS:
        assert digest_of_examples(task.examples(split)) == digest_of_examples(task.examples(split))


@EACH_TASK
def test_answers_fit_the_schema(task: Task) -> None:
    """Every expected answer is what a request with the task's schema may be answered, and the contract takes it."""
    check_schema(task.schema)
    validator = jsonschema.Draft202012Validator(task.schema)
    answers = [json.loads(example.answer) for example in every_example(task)]
    assert number(not validator.is_valid(answer) for answer in answers) == 0
    assert number(task.label(answer) is None for answer in answers) == 0


@EACH_TASK
def test_no_text_is_there_twice(task: Task) -> None:
    """Neither within a split nor in two."""
    texts = [example.text.lower() for example in every_example(task)]
    num_different = len(set(texts))
    assert num_different == len(texts) == task.num_train + task.num_dev + task.num_held_out


@EACH_TASK
def test_training_sees_nothing_that_is_held_out(task: Task) -> None:
    """No held-out word stands in an example to train with, and no held-out template's words in their order."""
    lists = lists_of(task)
    assert len(lists) > 10
    kept = {word.lower() for words in lists for word in words.held_out}
    seen = {word.lower() for words in lists for word in (*words.train, *words.dev)}
    assert number(word in seen for word in kept) == 0
    texts = "\n".join(example.text for example in task.examples("train"))
    assert number(is_in(template, texts) for template in kept) == 0


@EACH_TASK
def test_nothing_to_choose_by_is_trained_on(task: Task) -> None:
    """What `dev` keeps from training stands in no list's part for training."""
    for words in lists_of(task):
        assert not set(words.dev) & set(words.train)


@EACH_TASK
@pytest.mark.parametrize("split", ["dev", "held_out"])
def test_every_example_that_is_not_trained_on_has_something_new(task: Task, split: Literal["dev", "held_out"]) -> None:
    """What it notes as new is of its split, and stands in its text."""
    kept = {word for words in lists_of(task) for word in words.new_in(split)}
    examples = task.examples(split)
    assert number(not example.new for example in examples) == 0
    assert number(not set(example.new) <= kept for example in examples) == 0
    texts = [(ANYTHING.join(pieces_of(new)), example.text) for example in examples for new in example.new]
    assert number(not re.search(words, text, re.IGNORECASE) for words, text in texts) == 0


@EACH_TASK
def test_everything_held_out_is_asked(task: Task) -> None:
    """Most held-out words and templates come up in the test."""
    kept = {word for words in lists_of(task) for word in words.held_out}
    asked = {new for example in task.examples("held_out") for new in example.new}
    num_asked, num_kept = len(asked), len(kept)
    assert num_asked >= 0.8 * num_kept


def test_rooms_are_copied_from_the_wish() -> None:
    """A room in an answer stands in the wish, or is "here" or "all"."""
    for example in every_example(home.TASK):
        rooms = {action["room"] for action in json.loads(example.answer)["actions"]}
        assert number(room not in ("here", "all") and room not in example.text for room in rooms) == 0


def test_numbers_are_said_or_of_a_level_or_scene() -> None:
    """A number in an answer stands in the wish or is fixed for a word, a need or a scene."""
    fixed = {*home.LEVELS.values(), *(value for _, value in home.NEEDS.values())}
    fixed |= {value for steps in home.SCENES.values() for _, value in steps}
    for example in every_example(home.TASK):
        values = {action["set"] for action in json.loads(example.answer)["actions"]}
        free = {value for value in values if isinstance(value, int)} - fixed
        assert number(str(value) not in example.text for value in free) == 0


def test_a_wish_does_not_contradict_itself() -> None:
    """Nothing is asked of the same device twice."""
    for example in every_example(home.TASK):
        actions = json.loads(example.answer)["actions"]
        num_devices = len({(action["room"], action["device"]) for action in actions})
        assert num_devices == len(actions)


def test_a_sentence_changes_no_room() -> None:
    """A wish that begins with a room is not written with a capital, for the room is copied as it stands."""
    starts = [example for example in home.TASK.examples("train") if example.text[0].isupper()]
    assert starts
    for example in starts:
        rooms = {action["room"] for action in json.loads(example.answer)["actions"]}
        assert not any(example.text.lower().startswith(room) for room in rooms)


def test_causes_name_what_the_line_names() -> None:
    """Each word list that a cause draws from is in all messages of its issue, so that the cause can be told."""
    for issue in triage.LISTS.issues:
        wanted = set(re.findall(r"\{\w+\}", issue.cause))
        messages = [*issue.train, *issue.dev, *issue.held_out]
        lacking = (wanted - set(re.findall(r"\{\w+\}", message)) for message in messages)
        assert number(bool(names) for names in lacking) == 0, issue.cause


def test_issues_cover_all_components_and_severities() -> None:
    """Every component and severity is there, each component with at least three severities."""
    assert {issue.severity for issue in triage.LISTS.issues} == set(triage.SEVERITIES)
    for component in triage.COMPONENTS:
        assert len({i.severity for i in triage.LISTS.issues if i.component == component}) >= 3, component


def every_example(task: Task) -> list[Example]:
    """All splits."""
    return [example for split in SPLITS for example in task.examples(split)]


def number(faults: Iterable[bool]) -> int:
    """How many there are."""
    return sum(faults)
