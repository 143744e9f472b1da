"""The prefix cache on the real model: what it saves, and that it changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.engine import EngineProcess

SYSTEM = ("system", "You are the voice of a house. " + " ".join(f"Room {n} has {n + 2} lamps." for n in range(12)))
FRANCE = ("user", "What is the capital of France?")
FRUIT = ("user", "Name a fruit.")


@pytest.fixture
def engine(model: Path) -> Iterator[EngineProcess]:
    """An engine whose cache is empty."""
    running = EngineProcess(model)
    yield running
    running.close()


def test_a_shared_beginning_is_computed_once(engine: EngineProcess) -> None:
    """Of a prompt that begins like one before, only the last turn is computed."""
    first = engine.ask(SYSTEM, FRANCE)
    second = engine.ask(SYSTEM, FRUIT)
    assert first.cached_tokens == 0
    assert second.cached_tokens > 100
    assert second.prompt_tokens - second.cached_tokens < 20


def test_a_conversation_goes_on_where_it_was(engine: EngineProcess) -> None:
    """The turns so far are taken from the cache, answers included."""
    first = engine.ask(SYSTEM, FRANCE)
    second = engine.ask(SYSTEM, FRANCE, ("assistant", first.text), FRUIT)
    assert second.cached_tokens >= first.prompt_tokens - 20


def test_a_beginning_in_a_slot_that_is_in_use_is_copied(engine: EngineProcess) -> None:
    """While one request still runs on the same beginning, others take a copy, and it goes on undisturbed."""
    alone = engine.ask(SYSTEM, FRANCE, max_tokens=60)
    long = engine.generate(SYSTEM, ("user", "Tell a long story about a lighthouse."), max_tokens=120)
    others = [engine.generate(SYSTEM, FRANCE, max_tokens=8) for _ in range(3)]
    ends = engine.done(4)
    assert all(ends[number].cached_tokens > 100 for number in others)
    assert ends[long].completion_tokens > 8
    assert alone.text


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_cache_changes_no_answer(engine: EngineProcess, temperature: float) -> None:
    """A request alone is answered to the last bit alike, whatever the cache holds."""
    fresh = engine.ask(SYSTEM, FRUIT, temperature=temperature, seed=7)
    engine.ask(SYSTEM, FRANCE)
    engine.ask(("user", "Is water wet?"))
    again = engine.ask(SYSTEM, FRUIT, temperature=temperature, seed=7)
    assert fresh.cached_tokens == 0
    assert again.cached_tokens > 100
    assert (again.text, again.confidence) == (fresh.text, fresh.confidence)


def test_texts_that_only_look_alike_are_not_mixed(engine: EngineProcess) -> None:
    """A beginning that differs in its last word is used up to the turn before and no further."""
    engine.ask(SYSTEM, ("user", "Name a fruit. Then stop. Answer in French."))
    other = engine.ask(SYSTEM, ("user", "Name a fruit. Then stop. Answer in German."))
    alone = engine.ask(SYSTEM, ("user", "Name a fruit. Then stop. Answer in German."))
    assert other.cached_tokens == alone.cached_tokens
    assert other.text == alone.text
