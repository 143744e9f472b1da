"""The examples that adapters are trained on, and those that they are judged by."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from contract.json_schema import check_schema
from training import home, triage
from training.task import Example, Task, digest_of_examples
from training.tasks import TASKS
from training.words import Words

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def lists_in(value: Any) -> Iterator[Words]:
    """All lists in a file of words, issues with their messages among them."""
    if isinstance(value, Words):
        yield value
    elif isinstance(value, triage.Issue):
        yield Words(value.train, value.held_out)
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


def pattern_of(template: str, between: str) -> re.Pattern[str]:
    """Finds a word, or a template's own words with something between them."""
    pieces = [piece.strip(" .,:;?%[]()'") for piece in re.split(r"\{\w+\}", template)]
    return re.compile(r"(?<!\w)" + between.join(re.escape(piece) for piece in pieces if piece) + r"(?!\w)")


def is_in(template: str, texts: str) -> bool:
    """Whether a word or template stands in any of the lines; a thing ({x}) ends where a clause does."""
    return bool(pattern_of(template, WITHIN_A_CLAUSE if "{x}" in template else ANYTHING).search(texts))


@EACH_TASK
def test_examples_are_the_same_every_time(task: Task) -> None:
    """A seed is all that the examples depend on."""
    for split in ("train", "held_out"):
        assert digest_of_examples(task.examples(split)) == digest_of_examples(task.examples(split))


@EACH_TASK
def test_answers_fit_the_schema(task: Task) -> None:
    """Every expected answer is what a request with the task's schema may be answered, and the contract takes it."""
    check_schema(task.schema)
    validator = jsonschema.Draft202012Validator(task.schema)
    for example in every_example(task):
        validator.validate(json.loads(example.answer))
        assert task.label(json.loads(example.answer)) is not None


@EACH_TASK
def test_no_text_is_there_twice(task: Task) -> None:
    """Neither within a split nor in both."""
    texts = [example.text for example in every_example(task)]
    assert len(texts) == len(set(texts)) == task.num_train + task.num_held_out


@EACH_TASK
def test_training_sees_nothing_that_is_held_out(task: Task) -> None:
    """No held-out word stands in an example to train with, and no held-out template's words in their order."""
    lists = lists_of(task)
    assert len(lists) > 10
    kept = {word for words in lists for word in words.held_out}
    assert not kept & {word for words in lists for word in words.train}
    texts = "\n".join(example.text for example in task.examples("train"))
    assert [template for template in kept if is_in(template, texts)] == []


@EACH_TASK
def test_every_held_out_example_has_something_new(task: Task) -> None:
    """What it notes as new is held out, and stands in its text."""
    kept = {word for words in lists_of(task) for word in words.held_out}
    for example in task.examples("held_out"):
        assert example.new
        assert set(example.new) <= kept
        assert all(pattern_of(new, ANYTHING).search(example.text) for new in example.new), example


@EACH_TASK
def test_everything_held_out_is_asked(task: Task) -> None:
    """Most held-out words and templates come up in the test."""
    kept = {word for words in lists_of(task) for word in words.held_out}
    asked = {new for example in task.examples("held_out") for new in example.new}
    assert len(asked) >= 0.8 * len(kept), sorted(kept - asked)


def test_rooms_are_copied_from_the_wish() -> None:
    """A room in an answer stands in the wish, or is "here" or "all"."""
    for example in every_example(home.TASK):
        for action in json.loads(example.answer)["actions"]:
            assert action["room"] in ("here", "all") or action["room"] in example.text


def test_numbers_are_said_or_of_a_level_or_scene() -> None:
    """A number in an answer stands in the wish or is fixed for a word, a need or a scene."""
    fixed = {*home.LEVELS.values(), *(value for _, value in home.NEEDS.values())}
    fixed |= {value for steps in home.SCENES.values() for _, value in steps}
    for example in every_example(home.TASK):
        for action in json.loads(example.answer)["actions"]:
            assert isinstance(action["set"], str) or action["set"] in fixed or str(action["set"]) in example.text


def test_a_wish_does_not_contradict_itself() -> None:
    """Nothing is asked of the same device twice."""
    for example in every_example(home.TASK):
        actions = json.loads(example.answer)["actions"]
        assert len({(action["room"], action["device"]) for action in actions}) == len(actions)


def test_causes_name_what_the_line_names() -> None:
    """Each word list that a cause draws from is in all messages of its issue, so that the cause can be told."""
    for issue in triage.LISTS.issues:
        wanted = set(re.findall(r"\{\w+\}", issue.cause))
        for message in (*issue.train, *issue.held_out):
            assert wanted <= set(re.findall(r"\{\w+\}", message)), message


def test_issues_cover_all_components_and_severities() -> None:
    """Every component and severity is there, each component with at least three severities."""
    assert {issue.severity for issue in triage.LISTS.issues} == set(triage.SEVERITIES)
    for component in triage.COMPONENTS:
        assert len({i.severity for i in triage.LISTS.issues if i.component == component}) >= 3, component


def every_example(task: Task) -> list[Example]:
    """Both splits."""
    return task.examples("train") + task.examples("held_out")
