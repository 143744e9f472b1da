"""The adapters that ship are what their cards say. What fails here shows digests and numbers, and no held-out text."""

import json

import pytest

from agent.fitness import unfit_bases
from agent.models import DEFAULT_SHA256, digest_of
from agent.weights.adapter import read_adapter
from training.card import Card, page_of, read_card, scores_by_base
from training.task import Task, digest_of_examples
from training.tasks import SHIPPED, TASKS
from training.variants import SHIPPED as SHIPPED_VARIANT

MAX_BYTES = 5_000_000
RANK = 8


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    """Each task."""
    return TASKS[str(request.param)]


@pytest.fixture
def card(task: Task) -> Card:
    """The card of its adapter."""
    return read_card(SHIPPED, task.name)


def test_the_file_is_the_card_s(card: Card) -> None:
    """Digest, size, rank and where it acts, and it is small enough."""
    path = SHIPPED / f"{card.name}.gguf"
    adapter = read_adapter(path.read_bytes())
    assert digest_of(path) == card.adapter_sha256
    assert adapter.num_bytes == path.stat().st_size == card.num_bytes <= MAX_BYTES
    assert adapter.rank == card.training.rank == RANK
    assert adapter.alpha == card.training.alpha
    assert adapter.activation == card.activation == "user"


def test_the_file_brings_the_scores_of_the_card(card: Card) -> None:
    """So that a node knows what the card's reader knows, and both call the same bases unfit."""
    adapter = read_adapter((SHIPPED / f"{card.name}.gguf").read_bytes())
    assert adapter.scores == scores_by_base(card.scores)
    unfit = {score.variant for score in card.scores if score.variant_sha256 in unfit_bases(adapter.scores)}
    assert set(card.unfit_variants) == unfit
    assert SHIPPED_VARIANT not in unfit


def test_the_base_is_the_default_model(card: Card) -> None:
    """The file names it, and the scores are of it too."""
    adapter = read_adapter((SHIPPED / f"{card.name}.gguf").read_bytes())
    assert adapter.base_sha256 == card.base_sha256 == DEFAULT_SHA256
    assert card.base_sha256 in adapter.scores
    assert {score.variant for score in card.scores if score.variant_sha256 == card.base_sha256} == {SHIPPED_VARIANT}


def test_the_examples_are_still_those_of_the_card(task: Task, card: Card) -> None:
    """Whoever changes words or rules trains and tests again."""
    assert card.test is not None
    assert digest_of_examples(task.examples("train")) == card.data.train_sha256
    assert digest_of_examples(task.examples("held_out")) == card.test.sha256
    assert (card.data.num_train, card.test.num) == (task.num_train, task.num_held_out)


def test_the_request_of_the_card_is_the_task_s(task: Task, card: Card) -> None:
    """First turn and schema, word for word."""
    assert card.system == task.system
    assert json.loads((SHIPPED / card.schema).read_bytes()) == task.schema


def test_the_page_is_made_of_the_card(card: Card) -> None:
    """Nobody edits one of the two."""
    is_same = (SHIPPED / f"{card.name}.md").read_text(encoding="utf-8") == page_of(card)
    assert is_same
