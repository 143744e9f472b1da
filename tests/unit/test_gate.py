"""The gate: bad candidates are turned away with their reasons, good ones pass, what was not measured is bad."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.update.gate import (
    LOOP_CHARS,
    LOOP_COPIES,
    Answer,
    Baseline,
    Golden,
    Promise,
    Trial,
    check_promise,
    decide,
    is_loop,
)

SCHEMA = {"type": "object", "properties": {"action": {"type": "string"}}, "required": ["action"]}
PROMISE = Promise(
    golden=(
        Golden(prompt="capital of France?", contains=("Paris",)),
        Golden(prompt="a date", pattern=r"^\d{4}-\d{2}-\d{2}$"),
        Golden(prompt="turn on the light", schema=SCHEMA),
        Golden(prompt="why is the sky blue?", similarity=0.7),
    ),
    perplexity=12.0,
    speed_ratio=0.5,
    memory_ratio=1.5,
    memory_bytes=300 << 20,
)
BASELINE = Baseline(tok_s=40.0, memory_bytes=150 << 20)
GOOD = Trial(
    answers=(
        Answer(text="The capital of France is Paris."),
        Answer(text=" 2026-11-21\n"),
        Answer(text='{"action": "light.on"}', fits_schema=True),
        Answer(text="Air scatters blue light most.", similarity=0.83),
    ),
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
    ("wrong template", with_answer(0, text="user: and Spain? user: and Spain?"), "answer 1 lacks"),
    ("wrong tokenizer", with_answer(1, text="ĠthĠ 20Ġ26"), "answer 2 does not match"),
    ("no line breaks in a date", with_answer(1, text="2026-11-\n21"), "answer 2 does not match"),
    ("zeroed layer", replace(GOOD, perplexity=48_213.7), "perplexity is 4.821e+04; at most 12"),
    ("not a number", replace(GOOD, has_nan=True), "no number"),
    ("perplexity no number", replace(GOOD, perplexity=math.nan), "perplexity is nan"),
    ("perplexity endless", replace(GOOD, perplexity=math.inf), "perplexity is inf"),
    ("perplexity not measured", replace(GOOD, perplexity=None), "perplexity is not measured"),
    ("three times slower", replace(GOOD, tok_s=13.3), "speed in tokens a second is 13.3; at least 20"),
    ("speed not measured", replace(GOOD, tok_s=None), "not measured"),
    ("speed no number", replace(GOOD, tok_s=math.nan), "nan"),
    ("too big for what was there", replace(GOOD, memory_bytes=226 << 20), "at most 225 may be"),
    ("memory not measured", replace(GOOD, memory_bytes=None), "memory in MiB is not measured"),
    ("repetition", with_answer(3, text="Because the sky is " + "the sky is " * 40), "answer 4 repeats itself"),
    ("empty", with_answer(2, text=" \n"), "answer 3 is empty"),
    ("no schema", with_answer(2, fits_schema=False), "answer 3 does not fit its schema"),
    ("schema not checked", with_answer(2, fits_schema=None), "answer 3 does not fit its schema"),
    ("not similar", with_answer(3, similarity=0.69), "answer 4 is less similar than 0.7"),
    ("similarity no number", with_answer(3, similarity=math.nan), "answer 4 is less similar"),
    ("similarity not measured", with_answer(3, similarity=None), "answer 4 is less similar"),
    ("half a trial", replace(GOOD, answers=GOOD.answers[:2]), "2 of 4 golden prompts"),
    ("no trial", Trial(), "0 of 4 golden prompts"),
    ("endless answer", with_answer(0, text="Paris " + "".join(map(str, range(30_000)))), "more than 100000 characters"),
]  # fmt: skip


def test_a_good_candidate_passes() -> None:
    """Also at its limits, and with nothing to compare with."""
    check_promise(PROMISE)
    assert decide(PROMISE, GOOD, BASELINE).passed
    assert decide(PROMISE, replace(GOOD, perplexity=12.0, tok_s=20.0, memory_bytes=225 << 20), BASELINE).passed
    assert decide(PROMISE, replace(GOOD, tok_s=0.5, memory_bytes=300 << 20), Baseline()).passed
    assert decide(Promise(), Trial(), Baseline()).passed  # who promises nothing breaks nothing


@pytest.mark.parametrize(("trial", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_candidate_is_turned_away_with_its_reason(trial: Trial, reason: str) -> None:
    """And with no other when nothing else is bad; no answer's text is in it."""
    verdict = decide(PROMISE, trial, BASELINE)
    assert not verdict.passed
    assert reason in verdict.reasons[0] + verdict.reasons[-1]
    assert not any(answer.text.strip() and answer.text in line for answer in trial.answers for line in verdict.reasons)


def test_all_reasons_are_told_at_once() -> None:
    """Who mends a release does not mend it reason by reason."""
    trial = replace(with_answer(0, text="London"), has_nan=True, tok_s=1.0)
    assert len(decide(PROMISE, trial, BASELINE).reasons) == 3


def test_some_golden_prompts_may_be_wrong_but_none_broken() -> None:
    """A small model answers not all right; an empty answer is another thing."""
    lenient = replace(PROMISE, max_wrong=1)
    assert decide(lenient, with_answer(0, text="London"), BASELINE).passed
    assert not decide(lenient, with_answer(0, text=""), BASELINE).passed
    both = replace(GOOD, answers=(Answer(text="London"), Answer(text="today"), *GOOD.answers[2:]))
    assert len(decide(lenient, both, BASELINE).reasons) == 2


def test_the_absolute_memory_limit_holds_without_a_baseline() -> None:
    """A first release has none."""
    verdict = decide(PROMISE, replace(GOOD, memory_bytes=301 << 20), Baseline())
    assert verdict.reasons == ("its memory in MiB is 301; at most 300 may be",)


@pytest.mark.parametrize(
    ("promise", "reason"),
    [
        (Promise(golden=(Golden(prompt="x", pattern="(a+)+$"),)), "golden prompt 1: must begin"),
        (Promise(golden=(Golden(prompt="x"), Golden(prompt="x", pattern="^(a+)+$"))), "golden prompt 2: is ambiguous"),
        (Promise(golden=(Golden(prompt="x", schema={"type": "text"}),)), "golden prompt 1: $.type is"),
        (Promise(perplexity=0.0), "cannot use a limit"),
        (Promise(speed_ratio=math.nan), "cannot use a limit"),
    ],
)
def test_a_promise_that_cannot_be_judged_is_no_promise(promise: Promise, reason: str) -> None:
    """It is refused where it is written, and before anything of it is fetched."""
    with pytest.raises(ValueError, match="cannot use") as caught:
        check_promise(promise)
    assert reason in str(caught.value)


def test_hostile_answers_cost_no_time() -> None:
    """What makes a backtracking matcher take for ever, which ends this test: quotes are no part of a pattern."""
    golden = Golden(prompt="x", pattern='^(["a]|["b])*c$')
    check_promise(Promise(golden=(golden,)))
    texts = ['"' * 100_000, "a" * 99_999, "ab" * 49_999 + "!", 'a"' * 50_000]
    for text in texts:
        assert not decide(Promise(golden=(golden,)), Trial(answers=(Answer(text=text),)), Baseline()).passed


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
