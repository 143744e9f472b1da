"""The gate: bad candidates are turned away with their reasons, good ones pass, what was not measured is bad."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.update.gate import (
    LOOP_CHARS,
    LOOP_COPIES,
    MAX_TEXT_RATIO,
    MIN_ADAPTER_SPEED,
    MIN_SPEED,
    Answer,
    Trial,
    decide,
    is_loop,
)
from agent.update.trial import is_met
from contract.release import Matches
from tests.fakes.releases import release_of

EXPECTED: list[dict[str, Any]] = [
    {"kind": "contains", "text": "Paris"},
    {"kind": "regex", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    {"kind": "json_schema", "schema": {"type": "object"}},
    {"kind": "similar", "text": "Air scatters blue light.", "cosine": 0.7},
]
RELEASE = release_of(
    golden=[{"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "expect": [one]} for one in EXPECTED],
    perplexity={"text": "Once upon a time", "ceiling": 12.0},
    min_speed=0.5,
)
PLAIN = release_of()
ADAPTER = release_of(kind="adapter", base_sha256="0" * 64)
ROOM = 300 << 20
BASELINE = Trial(replies=("Hello!",) * 3, text_bits=1.0, chat_bits=1.2, tok_s=40.0, memory_bytes=150 << 20)
GOOD = Trial(
    answers=(
        Answer(text="The capital of France is Paris.", met=(True,)),
        Answer(text=" 2026-11-21\n", met=(True,)),
        Answer(text='{"action": "light.on"}', met=(True,)),
        Answer(text="Air scatters blue light most.", met=(True,)),
    ),
    replies=("Hello!", "Good morning!", "Hi!"),
    text_bits=1.1,
    chat_bits=1.1,
    perplexity=9.5,
    tok_s=31.0,
    memory_bytes=160 << 20,
)


def with_answer(number: int, **changes: object) -> Trial:
    """The good trial with one answer that is another."""
    answers = list(GOOD.answers)
    answers[number] = replace(answers[number], **changes)
    return replace(GOOD, answers=tuple(answers))


BAD = [
    ("wrong template", with_answer(0, text="user: and Spain?", met=(False,)), "answer 1 lacks"),
    ("marks", replace(GOOD, unknown_marks=2), "writes 2 marks that are no tokens"),
    ("no marks", replace(GOOD, lacks_marks=True), "has none of the marks"),
    ("wrong tokenizer", with_answer(1, met=(False,)), "answer 2 does not match"),
    ("zeroed layer", replace(GOOD, perplexity=48_213.7), "perplexity is 4.821e+04; at most 12"),
    ("not a number", replace(GOOD, has_nan=True), "no number"),
    ("perplexity no number", replace(GOOD, perplexity=math.nan), "perplexity is nan"),
    ("perplexity endless", replace(GOOD, perplexity=math.inf), "perplexity is inf"),
    ("perplexity not measured", replace(GOOD, perplexity=None), "perplexity is not measured"),
    ("text surprises it", replace(GOOD, text_bits=3.9), "3.9 bits for a byte of text"),
    ("text not measured", replace(GOOD, text_bits=None), "not measured bits for a byte of text"),
    ("talk surprises it", replace(GOOD, chat_bits=3.9), "3.9 bits for a byte of conversations"),
    ("three times slower", replace(GOOD, tok_s=13.3), "speed in tokens a second is 13.3; at least 20"),
    ("speed not measured", replace(GOOD, tok_s=None), "not measured"),
    ("speed no number", replace(GOOD, tok_s=math.nan), "nan"),
    ("too big for what there is", replace(GOOD, memory_bytes=301 << 20), "at most 300 may be"),
    ("memory not measured", replace(GOOD, memory_bytes=None), "memory in MiB is not measured"),
    ("repetition", with_answer(3, text="Because the sky is " + "the sky is " * 40), "answer 4 repeats itself"),
    ("loops", replace(GOOD, replies=("no " * 99, "ja " * 99, "Hi!")), "2 more of its replies repeat themselves"),
    ("silence", replace(GOOD, replies=("Hello!", " ", "Hi!")), "1 more of its replies are empty"),
    ("empty", with_answer(2, text=" \n"), "answer 3 is empty"),
    ("no schema", with_answer(2, met=(False,)), "answer 3 does not fit its schema"),
    ("schema not checked", with_answer(2, met=(None,)), "answer 3 does not fit its schema"),
    ("not looked at", with_answer(2, met=()), "answer 3 was not looked at"),
    ("not similar", with_answer(3, met=(False,)), "answer 4 is less similar than 0.7"),
    ("half a trial", replace(GOOD, answers=GOOD.answers[:2]), "2 of 4 golden prompts"),
    ("no trial", Trial(), "0 of 4 golden prompts"),
    ("endless answer", with_answer(0, text="Paris " + "".join(map(str, range(30_000)))), "more than 100000 characters"),
]  # fmt: skip


def test_a_good_candidate_passes() -> None:
    """Also at its limits, with nothing to compare with, and without a model that tells of similarity."""
    assert decide(RELEASE, GOOD, BASELINE, ROOM).passed
    edge = replace(GOOD, perplexity=12.0, tok_s=20.0, memory_bytes=ROOM, text_bits=MAX_TEXT_RATIO)
    assert decide(RELEASE, edge, BASELINE, ROOM).passed
    assert decide(RELEASE, replace(GOOD, tok_s=0.5, text_bits=2.0), None, ROOM).passed
    assert decide(RELEASE, with_answer(3, met=(None,)), BASELINE, ROOM).passed


@pytest.mark.parametrize(("trial", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_candidate_is_turned_away_with_its_reason(trial: Trial, reason: str) -> None:
    """And with no other when nothing else is bad; no answer's text is in it."""
    verdict = decide(RELEASE, trial, BASELINE, ROOM)
    assert not verdict.passed
    assert any(reason in line for line in verdict.reasons)
    assert len(verdict.reasons) == 1 or trial == Trial()
    assert not any(answer.text.strip() and answer.text in line for answer in trial.answers for line in verdict.reasons)


def test_all_reasons_are_told_at_once() -> None:
    """Who mends a release does not mend it reason by reason."""
    trial = replace(with_answer(0, met=(False,)), unknown_marks=1, tok_s=1.0)
    assert len(decide(RELEASE, trial, BASELINE, ROOM).reasons) == 3


def test_a_release_that_promises_nothing_is_compared_with_what_serves() -> None:
    """As surprised by plain text, and as fast as that, within limits; the limits of a model that says less are ours."""
    plain = replace(GOOD, answers=())
    assert decide(PLAIN, plain, BASELINE, ROOM).passed
    assert not decide(PLAIN, replace(plain, tok_s=40.0 * MIN_SPEED - 1), BASELINE, ROOM).passed
    assert not decide(PLAIN, replace(plain, text_bits=MAX_TEXT_RATIO + 0.1), BASELINE, ROOM).passed


def test_an_adapter_may_be_slower_than_a_model() -> None:
    """It adds to each step, the more the busier the node is."""
    least = 40.0 * MIN_ADAPTER_SPEED
    assert decide(ADAPTER, replace(GOOD, answers=(), tok_s=least), BASELINE, ROOM).passed
    assert not decide(PLAIN, replace(GOOD, answers=(), tok_s=least), BASELINE, ROOM).passed
    assert not decide(ADAPTER, replace(GOOD, answers=(), tok_s=least - 0.1), BASELINE, ROOM).passed


def test_an_adapter_for_one_thing_may_say_that_for_ever() -> None:
    """To what it is not for; where it counts, its golden prompts say so."""
    assert decide(ADAPTER, replace(GOOD, answers=(), replies=('{"room": "kitchen"}' * 99,) * 3), BASELINE, ROOM).passed


def test_what_is_only_slow_is_told_apart() -> None:
    """Others may have had the processor: it is looked at again."""
    assert decide(RELEASE, replace(GOOD, tok_s=1.0), BASELINE, ROOM).is_doubtful
    assert not decide(RELEASE, replace(GOOD, tok_s=1.0, has_nan=True), BASELINE, ROOM).is_doubtful
    assert not decide(RELEASE, GOOD, BASELINE, ROOM).is_doubtful


def test_hostile_answers_cost_no_time() -> None:
    """What makes a backtracking matcher take for ever, which ends this test: quotes are no part of a pattern."""
    pattern = Matches('^(["a]|["b])*c$')
    for text in ['"' * 100_000, "a" * 99_999, "ab" * 49_999 + "!", 'a"' * 50_000]:
        assert is_met(pattern, text, iter(())) is False


@pytest.mark.parametrize(
    "text",
    [
        "!" * LOOP_CHARS,
        "no " * 21,
        "the sky is blue. " * 8 + "the sk",
        "x\n" * 60,
        "Well: " + "a long piece of it, " * 4,
    ],
)
def test_loops_are_seen(text: str) -> None:
    """Whatever the piece, also when the last copy is cut off."""
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "ha ha ha ha", "-" * (LOOP_CHARS - 1), "the sky is blue. " * 3,
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n| 5 | 6 |\n| 7 | 8 |\n| 9 | 0 |",
        '[{"room": "hall", "on": true}, {"room": "bath", "on": true}, {"room": "attic", "on": true}]',
        "again and again and again and again, and then it came to an end, as all things do",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_loop_is_none(text: str) -> None:
    """Short ones, tables, lists of like things, and what repeats and then goes on."""
    assert not is_loop(text)


@given(st.text(max_size=30), st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=30), st.data())
def test_every_loop_is_seen_behind_any_text(before: str, piece: str, data: st.DataObject) -> None:
    """Copies enough of any piece, behind whatever there was, with any part of one more."""
    copies = max(LOOP_COPIES, LOOP_CHARS // len(piece) + 1)
    assert is_loop(before + piece * copies + piece[: data.draw(st.integers(0, len(piece)))])
