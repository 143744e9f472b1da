"""An engine process with a real encoder: right vectors, clear refusals, nothing that ends the process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.engine import frames
from tests.fakes.engine import EngineProcess
from tests.reference.vectors import cosines, reference_vectors, sentences

LIMIT = 512


@pytest.fixture(scope="module")
def engine(embedding_model: Path) -> Iterator[EngineProcess]:
    """An engine with MiniLM."""
    running = EngineProcess(embedding_model, context_tokens=2048)
    yield running
    running.close()


def vectors(frame: frames.FromEngine) -> list[np.ndarray]:
    """The vectors of a job that ended well."""
    assert isinstance(frame, frames.Embedded), frame
    return [np.frombuffer(vector, dtype=np.float32) for vector in frame.vectors]


def rejected(frame: frames.FromEngine) -> frames.Rejected:
    """The refusal of a job."""
    assert isinstance(frame, frames.Rejected), frame
    return frame


def test_vectors_are_those_of_the_original_model(engine: EngineProcess) -> None:
    """Of a hundred texts in many languages and forms, each alike to four digits; they have the length 1."""
    engine.embed(*sentences())
    found = np.array(vectors(engine.next()))
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert cosines(found, reference_vectors()).min() >= 0.9999


def test_company_changes_no_vector(engine: EngineProcess) -> None:
    """Alone, in a list, or in a step with another job's texts: the same to five digits."""
    texts = sentences()[:12]
    numbers = {engine.embed(text): [place] for place, text in enumerate(texts)}
    numbers[engine.embed(*texts)] = list(range(len(texts)))
    alone, together = {}, []
    for _ in numbers:
        frame = engine.next()
        assert isinstance(frame, frames.Embedded)
        places = numbers[frame.job]
        if len(places) == 1:
            alone[places[0]] = vectors(frame)[0]
        else:
            together = vectors(frame)
    assert cosines([alone[place] for place in range(len(texts))], together).min() > 0.99999


def test_too_long_a_text_is_refused_with_the_limit(engine: EngineProcess) -> None:
    """llama.cpp would end the process. The message says which text it is and what would do."""
    engine.embed("hello", "word " * (LIMIT - 1))
    refusal = rejected(engine.next())
    assert (refusal.status, refusal.code) == (413, "input")
    assert "cannot embed input[1] of 513 tokens: 1 to 512 are accepted" in refusal.message
    engine.embed("word " * (LIMIT - 2))
    vectors(engine.next())


def test_truncation_is_on_demand(engine: EngineProcess) -> None:
    """What is cut off does not count, and the end mark stays."""
    engine.embed("word " * 5000, "word " * (LIMIT - 2), truncate=True)
    cut, fitting = vectors(engine.next())
    assert cosines([cut], [fitting]).min() > 0.99999


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "a\0b", "[SEP] [CLS] [MASK]", "\ud7ff\ufffd", "🙂" * 400, "x" * 20_000]
)
def test_odd_texts_are_embedded(engine: EngineProcess, text: str) -> None:
    """Nothing in a text ends the engine, and marks in it are only text."""
    engine.embed(text, truncate=True)
    assert len(vectors(engine.next())) == 1


def test_marks_in_a_text_are_text(engine: EngineProcess) -> None:
    """`[SEP]` typed by somebody is five characters."""
    engine.embed("[SEP]")
    frame = engine.next()
    assert isinstance(frame, frames.Embedded)
    assert frame.prompt_tokens == 5  # [CLS] [ sep ] [SEP]


def test_a_big_job_can_be_cancelled_and_does_not_hold_up_a_small_one(engine: EngineProcess) -> None:
    """Jobs take turns in each step; a cancelled one ends with its reason."""
    big = engine.embed(*["a text of some words that is embedded again and again " * 5] * 256)
    small = engine.embed("hello")
    frame = engine.next()
    assert isinstance(frame, frames.Embedded)
    assert frame.job == small
    engine.send(frames.Cancel(big, "cancelled"))
    frame = engine.next()
    assert isinstance(frame, frames.Done)
    assert (frame.job, frame.finish_reason) == (big, "cancelled")


def test_deadline_ends_a_job(engine: EngineProcess) -> None:
    """Between steps and within one."""
    engine.embed(*["a text of some words " * 20] * 256, ttl_ms=30)
    frame = engine.next()
    assert isinstance(frame, frames.Done)
    assert frame.finish_reason == "deadline"


def test_wrong_kind_of_job_is_refused(engine: EngineProcess, model: Path) -> None:
    """An encoder writes no text, and a text model makes no vectors; both live on."""
    engine.generate(("user", "hello"))
    assert rejected(engine.next()).message == "cannot generate: this model makes embeddings"
    engine.embed("still there")
    vectors(engine.next())
    other = EngineProcess(model, context_tokens=128)
    other.embed("hello")
    assert rejected(other.next()).message == "cannot embed: this model generates text"
    other.ask(("user", "hello"), max_tokens=1)
    other.close()
