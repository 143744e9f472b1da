"""A trial of the real default model, with a real model that tells how similar answers are."""

import asyncio
from pathlib import Path

from agent.engine.supervisor import Plan
from agent.update.trial import Subject, show
from tests.fakes.releases import release_of

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


def subject(file: Path) -> Subject:
    """How its engine is run."""
    return Subject(
        Plan(file=str(file), context_tokens=512, parallel=2, threads=2, start_timeout_s=180, stall_s=60), rung=None
    )


def ask(text: str) -> list[dict[str, str]]:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]


def test_the_default_model_shows_what_it_can(model: Path, embedding_model: Path) -> None:
    """Every kind of expectation is looked at, and every number is measured; a wrong expectation is not met."""
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
    release = release_of(
        golden=[
            {
                "messages": ask("What is 2 + 2?"),
                "max_tokens": 24,
                "expect": [
                    {"kind": "contains", "text": "4"},
                    {"kind": "contains", "text": "seventeen"},
                    {"kind": "regex", "pattern": "^[A-Z][A-Za-z ,']+[0-9]\\.$"},
                    {"kind": "similar", "text": "The answer is 4.", "cosine": 0.5},
                    {"kind": "similar", "text": "Ships in the harbour wait for the morning.", "cosine": 0.5},
                ],
            },
            {
                "messages": ask("What is 2 + 2?"),
                "max_tokens": 32,
                "response_format": form,
                "expect": [{"kind": "json_schema", "schema": SCHEMA}],
            },
        ],
        perplexity={"text": "The capital of France is Paris, and the capital of Italy is Rome.", "ceiling": 40.0},
    )
    trial = asyncio.run(show(subject(model), release, subject(embedding_model)))
    assert [answer.met for answer in trial.answers] == [(True, False, True, True, False), (True,)]
    assert (trial.has_nan, trial.unknown_marks, trial.lacks_marks) == (False, 0, False)
    assert trial.text_bits is not None
    assert 0.9 < trial.text_bits < 1.1
    assert trial.perplexity is not None
    assert 1 < trial.perplexity < 40
    assert trial.tok_s
    assert trial.memory_bytes
    assert trial.memory_bytes > model.stat().st_size / 2
