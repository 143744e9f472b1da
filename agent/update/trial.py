"""What a model, or an adapter on it, shows in a trial: the same for a candidate and for what serves.

No text leaves this file but as part of a `Trial`, which only the gate reads.
"""

import asyncio
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from agent.engine import frames
from agent.engine.supervisor import Plan
from agent.update.gate import Answer, Trial
from agent.update.probes import ANSWER_TOKENS, CHATS, DECODE_TOKENS, OPENING_CHARS, QUESTIONS, TEXTS
from agent.update.trial_engine import GREEDY, TrialEngine
from contract.automaton import matches
from contract.pattern import parse_pattern
from contract.release import Contains, Expectation, Facts, Fits, GoldenPrompt, Matches, Resembles


class Subject(Struct, frozen=True):
    """What is tried: a model, how its engine is run, and the file of an adapter on it. `rung` names load flags."""

    plan: Plan
    rung: str | None
    adapter: Path | None = None


async def show(subject: Subject, release: Facts | None, embedder: Subject | None) -> Trial:
    """What it shows. With a release its golden prompts and its text are asked, too.

    Raises:
        EngineError: it cannot be loaded, or its engine died of it.
        OSError: the adapter's file cannot be read.
    """
    async with TrialEngine(subject.plan, subject.rung) as engine:
        adapter = _give(engine, subject.adapter) if subject.adapter else None
        texts = [await engine.score(text=text, adapter=adapter, num_decode=DECODE_TOKENS) for text in TEXTS]
        chats = [await engine.score(turns=list(turns), adapter=adapter) for turns in CHATS]
        own = release.perplexity if release else None
        scored = await engine.score(text=own.text, adapter=adapter) if own else None
        if any(one.nats is None for one in (*texts, *chats)):
            return Trial(has_nan=True)  # there is nothing to choose from for an answer
        replies = await asyncio.gather(
            *(engine.generate([("user", one)], max_tokens=ANSWER_TOKENS, adapter=adapter) for one in QUESTIONS)
        )
        answers = await asyncio.gather(
            *(_answer(engine, release, golden, adapter) for golden in (release.golden if release else []))
        )
        memory_bytes = engine.memory_bytes
    if embedder is not None and release is not None:
        answers = await _compare(embedder, release.golden, answers)
    return Trial(
        answers=tuple(answers),
        replies=tuple(done.text for done in replies),
        has_nan=scored is not None and scored.nats is None,
        unknown_marks=max(one.unknown_marks for one in chats),
        lacks_marks=any(one.lacks_marks for one in chats),
        text_bits=_bits(texts, [len(text.encode()) for text in TEXTS]),
        chat_bits=_bits(chats, [sum(len(text.encode()) for _, text in turns) for turns in CHATS]),
        perplexity=_perplexity(scored),
        tok_s=_tok_s(texts),
        memory_bytes=memory_bytes,
    )


async def speed(subject: Subject) -> float | None:
    """How many tokens a second it decodes now, measured as `show` does.

    Raises:
        EngineError: it cannot be loaded, or its engine died of it.
        OSError: the adapter's file cannot be read.
    """
    openings = [text[:OPENING_CHARS] for text in TEXTS]
    async with TrialEngine(subject.plan, subject.rung) as engine:
        adapter = _give(engine, subject.adapter) if subject.adapter else None
        return _tok_s([await engine.score(text=text, adapter=adapter, num_decode=DECODE_TOKENS) for text in openings])


def _give(engine: TrialEngine, path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        engine.give("candidate", fd)
    finally:
        os.close(fd)
    return "candidate"


async def _answer(engine: TrialEngine, release: Facts | None, golden: GoldenPrompt, adapter: str | None) -> Answer:
    """As a request would be answered that says nothing of how."""
    form = golden.response_format
    schema = None
    if form is not None and form.type != "text":
        schema = form.json_schema.schema if form.json_schema is not None else {"type": "object"}
    done = await engine.generate(
        [(message.role, message.text) for message in golden.messages],
        max_tokens=golden.max_tokens,
        sampling=_sampling(release),
        stops=list(release.sampling.stop) if release else [],
        output_schema=schema,
        adapter=adapter,
    )
    schemas = [expected.schema for expected in golden.expect if isinstance(expected, Fits)]
    fits = iter(await engine.fit(done.text, schemas) if schemas else [])
    return Answer(text=done.text, met=tuple(is_met(expected, done.text, fits) for expected in golden.expect))


def is_met(expected: Expectation, text: str, fits: Iterator[bool]) -> bool | None:
    """Whether an answer is as expected; `fits` tells of schemas, in their order. None: that is not known here."""
    match expected:
        case Contains(text=part):
            return part in text
        case Matches(pattern=pattern):
            return matches(parse_pattern(pattern), " ".join(text.split()))
        case Fits():
            return next(fits, None)
        case Resembles():
            return None  # `_compare` looks


async def _compare(embedder: Subject, golden: list[GoldenPrompt], answers: list[Answer]) -> list[Answer]:
    """The answers, with how similar they are to good ones where that counts."""
    wanted = [
        (number, place, expected)
        for number, prompt in enumerate(golden)
        for place, expected in enumerate(prompt.expect)
        if isinstance(expected, Resembles) and answers[number].text.strip()
    ]
    if not wanted:
        return answers
    async with TrialEngine(embedder.plan, embedder.rung) as engine:
        vectors = await engine.embed(
            [text for number, _, expected in wanted for text in (answers[number].text, expected.text)]
        )
    found = list(answers)
    for (number, place, expected), one, other in zip(wanted, vectors[::2], vectors[1::2], strict=True):
        met = list(found[number].met)
        met[place] = sum(a * b for a, b in zip(array("f", one), array("f", other), strict=True)) >= expected.cosine
        found[number] = Answer(text=found[number].text, met=tuple(met))
    return found


def _sampling(release: Facts | None) -> frames.Sampling:
    """The release's own, but without chance: a golden prompt that is wrong once in ten times says nothing."""
    penalty = release.sampling.repeat_penalty if release else None
    return frames.Sampling(temperature=0, top_p=1, top_k=0, repeat_penalty=penalty or GREEDY.repeat_penalty)


def _tok_s(scored: list[frames.Scored]) -> float | None:
    return max((one.decode_tok_s for one in scored if one.decode_tok_s), default=None)


def _bits(scored: list[frames.Scored], num_bytes: list[int]) -> float | None:
    nats = [one.nats for one in scored]
    return None if None in nats else sum(one for one in nats if one is not None) / math.log(2) / sum(num_bytes)


def _perplexity(scored: frames.Scored | None) -> float | None:
    if scored is None or scored.nats is None or not scored.num_tokens:
        return None
    return math.exp(min(scored.nats / scored.num_tokens, 700.0))
