"""Whether a candidate may serve: what it showed on this node against what its release promises. Pure.

What the candidate said, how long it took and what it weighed is measured elsewhere and passed in, so is whatever needs
a model or a JSON Schema library. What was to be measured and was not is a reason against it: an empty trial never
passes. No reason quotes an answer.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from contract.automaton import matches
from contract.json_schema import check_schema
from contract.pattern import parse_pattern

MAX_ANSWER_CHARS = 100_000
# A text that ends in so many copies of one piece is a loop: models that are broken go on until they are stopped.
LOOP_COPIES = 4
LOOP_CHARS = 60
LOOP_PIECE_CHARS = 250
MIB = 1 << 20


class Golden(Struct, frozen=True, kw_only=True):
    """A prompt and what its answer must be like; all that is given counts.

    `pattern` is for the whole answer, in the deterministic part of regular expressions that `contract.pattern` reads,
    matched in linear time; white space in the answer counts as one space. `similarity` is the least cosine between the
    embeddings of the answer and of a good one.
    """

    prompt: str
    contains: tuple[str, ...] = ()
    pattern: str | None = None
    schema: dict[str, Any] | None = None
    similarity: float | None = None


class Promise(Struct, frozen=True, kw_only=True):
    """What a release says of itself. None: nothing."""

    golden: tuple[Golden, ...] = ()
    max_wrong: int = 0  # of the golden prompts
    perplexity: float | None = None  # at most, of the release's own text
    speed_ratio: float | None = None  # tokens a second, at least, to this node's baseline
    memory_ratio: float | None = None  # at most, to this node's baseline
    memory_bytes: int | None = None  # at most


class Answer(Struct, frozen=True, kw_only=True):
    """What the candidate answered to a golden prompt. None: not measured."""

    text: str
    fits_schema: bool | None = None
    similarity: float | None = None


class Trial(Struct, frozen=True, kw_only=True):
    """What a candidate showed; answers in the order of the golden prompts. None: not measured."""

    answers: tuple[Answer, ...] = ()
    has_nan: bool = False  # in any row of logits
    perplexity: float | None = None
    tok_s: float | None = None
    memory_bytes: int | None = None


class Baseline(Struct, frozen=True, kw_only=True):
    """What the release that serves shows on this node, measured in the same way. None: there is nothing to compare."""

    tok_s: float | None = None
    memory_bytes: int | None = None


class Verdict(Struct, frozen=True):
    """Whether it may serve, and all that speaks against it."""

    passed: bool
    reasons: tuple[str, ...] = ()


def check_promise(promise: Promise) -> None:
    """Whether it can be judged: before the first byte is fetched, and when a release is published.

    Raises:
        ValueError: says what would do.
    """
    for number, golden in enumerate(promise.golden, 1):
        try:
            if golden.pattern is not None:
                parse_pattern(golden.pattern)
            if golden.schema is not None:
                check_schema(golden.schema)
        except ValueError as error:
            raise ValueError(f"cannot use what is expected of golden prompt {number}: {error}") from None
    limits = (promise.perplexity, promise.speed_ratio, promise.memory_ratio, promise.memory_bytes)
    if any(limit is not None and not 0 < limit < math.inf for limit in limits):
        raise ValueError(f"cannot use a limit of {limits}: a positive number is one")


def decide(promise: Promise, trial: Trial, baseline: Baseline) -> Verdict:
    """Whether a candidate may serve. `promise` is one that `check_promise` accepts."""
    reasons = [*_broken(trial), *_golden(promise, trial.answers), *_numbers(promise, trial, baseline)]
    return Verdict(not reasons, tuple(reasons))


def is_loop(text: str) -> bool:
    """Whether a text ends in copies of one piece, the last of them perhaps cut off."""
    text = text.rstrip()
    for piece in range(1, min(LOOP_PIECE_CHARS, len(text) // LOOP_COPIES) + 1):
        enough = max(LOOP_COPIES * piece, LOOP_CHARS)
        if len(text) >= enough and text[-enough:-piece] == text[piece - enough :]:
            return True
    return False


def _broken(trial: Trial) -> Iterator[str]:
    """What no release may show, whatever it promises."""
    if trial.has_nan:
        yield "it computes what is no number"
    for number, answer in enumerate(trial.answers, 1):
        if not answer.text.strip():
            yield f"answer {number} is empty"
        elif len(answer.text) > MAX_ANSWER_CHARS:
            yield f"answer {number} has more than {MAX_ANSWER_CHARS} characters"
        elif is_loop(answer.text):
            yield f"answer {number} repeats itself without end"


def _golden(promise: Promise, answers: Sequence[Answer]) -> Iterator[str]:
    if len(answers) != len(promise.golden):
        yield f"{len(answers)} of {len(promise.golden)} golden prompts were answered"
        return
    wrong = [
        f"answer {number} {', '.join(whys)}"
        for number, (golden, answer) in enumerate(zip(promise.golden, answers, strict=True), 1)
        if (whys := list(_wrong(golden, answer)))
    ]
    if len(wrong) > promise.max_wrong:
        yield from wrong


def _wrong(golden: Golden, answer: Answer) -> Iterator[str]:
    text = answer.text[:MAX_ANSWER_CHARS]
    if any(part not in text for part in golden.contains):
        yield "lacks what it must contain"
    if golden.pattern is not None and not matches(parse_pattern(golden.pattern), " ".join(text.split())):
        yield "does not match its pattern"
    if golden.schema is not None and not answer.fits_schema:
        yield "does not fit its schema"
    if golden.similarity is not None and not _is_at_least(answer.similarity, golden.similarity):
        yield f"is less similar than {golden.similarity:g} to a good one"


def _numbers(promise: Promise, trial: Trial, baseline: Baseline) -> Iterator[str]:
    if promise.perplexity is not None and not _is_at_most(trial.perplexity, promise.perplexity):
        yield f"its perplexity is {_text(trial.perplexity)}; at most {promise.perplexity:g} may be"
    if promise.speed_ratio is not None and baseline.tok_s is not None:
        least = promise.speed_ratio * baseline.tok_s
        if not _is_at_least(trial.tok_s, least):
            yield f"its speed in tokens a second is {_text(trial.tok_s)}; at least {least:.3g} must be"
    limits = [promise.memory_bytes] if promise.memory_bytes is not None else []
    if promise.memory_ratio is not None and baseline.memory_bytes is not None:
        limits.append(round(promise.memory_ratio * baseline.memory_bytes))
    if limits and not _is_at_most(trial.memory_bytes, min(limits)):
        took = None if trial.memory_bytes is None else trial.memory_bytes / MIB
        yield f"its memory in MiB is {_text(took)}; at most {min(limits) / MIB:.4g} may be"


def _is_at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit  # no number is neither this nor the next


def _is_at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
