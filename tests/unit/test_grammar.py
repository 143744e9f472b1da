"""Schemas become grammars: in bounded time, that llama.cpp takes, and whose texts fit the schema."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.engine import grammar
from agent.engine.grammar import SchemaError, fits, gbnf_of
from contract.json_schema import check_schema
from tests.unit.hostile_json import ODD_TEXTS, TEXTS, values
from tests.unit.test_json_schema import GOOD, KEYWORDS
from tests.unit.test_pattern import ACCEPTED

COMPILE_LIMIT_S = 2.5  # the time limit of the compiler is 2 s
TOKEN_LIMIT_S = 1.0  # on a busy machine; usual is 0.001 s


class Judge:
    """Asks the process that may die on a bad grammar."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.grammar_judge", str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, schema: dict[str, Any], seed: int = 1) -> dict[str, Any]:
        """What became of a schema; fails when the process died on it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"schema": schema, "seed": seed}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"llama.cpp died on {json.dumps(schema)}"
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def judge(model: Path) -> Iterator[Judge]:
    """The judge of this module, with the default model's vocabulary."""
    running = Judge(model)
    yield running
    running.close()


def _check(answer: dict[str, Any]) -> None:
    assert answer["compile_s"] < COMPILE_LIMIT_S
    assert answer.get("slowest_s", 0) < TOKEN_LIMIT_S


@pytest.mark.parametrize("schema", GOOD, ids=range(len(GOOD)))
def test_a_schema_that_passed_the_check_is_compiled_or_refused(judge: Judge, schema: dict[str, Any]) -> None:
    """What the contract lets through either becomes a grammar that llama.cpp takes, or is refused with a reason."""
    _check(judge(schema))


@pytest.mark.parametrize("pattern", ACCEPTED)
def test_a_pattern_is_followed_at_a_known_cost(judge: Judge, pattern: str) -> None:
    """Every accepted pattern becomes a grammar whose texts fit it, and no token takes long."""
    for seed in range(3):
        answer = judge({"type": "string", "pattern": pattern}, seed)
        assert answer["refused"] is None
        _check(answer)
        if answer["whole"]:
            assert answer["fits"], answer["text"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(128)}},
        {"anyOf": [{"type": "object", "properties": {f"{k}{n}": {} for n in range(128)}} for k in "abcdefg"]},
        {"type": "array", "items": {"type": "string", "maxLength": 256}, "minItems": 256, "maxItems": 256},
        {"type": "array", "prefixItems": [{"type": "string", "maxLength": 256}] * 150},
        {"enum": [f"name {n}" for n in range(300)]},
        {"anyOf": [{"type": "string", "maxLength": n} for n in range(1, 32)]},
        {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}, {"enum": [1, 2]}]}},
    ],
    ids=range(7),
)
def test_a_large_schema_is_followed_at_a_known_cost(judge: Judge, schema: dict[str, Any]) -> None:
    """Schemas near the limits compile in time, and their tokens are found in time."""
    check_schema(schema)
    _check(judge(schema))


PROPERTY_NAMES = ODD_TEXTS | st.text(max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-999, 999) | PROPERTY_NAMES
ENFORCED = st.recursive(
    st.sampled_from([{"type": "boolean"}, {"type": "integer"}, {"type": "null"}, {"type": "string", "maxLength": 3}])
    | st.lists(SCALARS, min_size=1, max_size=3).map(lambda options: {"enum": options})
    | SCALARS.map(lambda value: {"const": value})
    | st.sampled_from(ACCEPTED).map(lambda pattern: {"type": "string", "pattern": pattern}),
    lambda inner: (
        st.builds(
            lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        )
        | st.builds(
            lambda properties, num_required: {
                "type": "object",
                "properties": properties,
                "required": list(properties)[:num_required],
                "additionalProperties": False,
            },
            st.dictionaries(PROPERTY_NAMES, inner, max_size=3),
            st.integers(0, 3),
        )
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    ),
    max_leaves=6,
)


@given(schema=ENFORCED, seed=st.integers(0, 99))
@example(schema={"enum": ['say "hi"']}, seed=1)
@example(schema={"enum": ["a\\b\nc"]}, seed=1)
@example(schema={"const": {'"': ["\\", "é"]}}, seed=1)
@example(schema={"type": "object", "properties": {"": {"const": None}}, "additionalProperties": False}, seed=1)
@example(
    schema={"type": "object", "properties": {'"\\\n': {}}, "required": ['"\\\n'], "additionalProperties": False}, seed=1
)
@settings(max_examples=150)
def test_a_whole_text_of_the_grammar_fits_the_schema(judge: Judge, schema: dict[str, Any], seed: int) -> None:
    """What the grammar lets a model write, with any property names and values, is JSON that fits the schema."""
    check_schema(schema)
    answer = judge(schema, seed)
    assert answer["refused"] is None
    _check(answer)
    if answer["whole"]:
        assert answer["fits"], answer["text"]


@given(
    st.dictionaries(st.sampled_from(KEYWORDS), values(st.sampled_from(KEYWORDS) | TEXTS, max_leaves=8), max_size=4),
    ENFORCED,
)
@settings(max_examples=150)
def test_any_schema_that_passed_the_check_is_compiled_or_refused(
    judge: Judge, odd: dict[str, Any], good: dict[str, Any]
) -> None:
    """Odd keywords beside good ones: a grammar or a reason, never a crash and never a long time."""
    for schema in (odd, good | odd, {"type": "object", "properties": {"a": odd}}, {"anyOf": [good, odd]}):
        try:
            check_schema(schema)
        except ValueError:
            continue
        answer = judge(schema)
        _check(answer)
        assert answer["refused"] is None or answer["refused"].strip()


@given(schema=ENFORCED | st.sampled_from(GOOD), text=st.text(max_size=20) | values(max_leaves=5).map(json.dumps))
def test_any_text_fits_or_not(schema: dict[str, Any], text: str) -> None:
    """The check after decoding has an answer for any text."""
    assert fits(schema, text) in (True, False)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "integer"}, "3", True),
        ({"type": "integer"}, " 3\n", True),
        ({"type": "integer"}, "3.5", False),
        ({"type": "integer"}, "three", False),
        ({"type": "integer"}, "", False),
        ({"type": "integer"}, "3 4", False),
        ({"type": "object", "required": ["a"]}, "{}", False),
        ({"type": "string", "pattern": "^a$"}, '"a"', True),
        ({"type": ["string", "null"], "pattern": "^a$"}, '"b"', False),
        ({"type": "object", "propertyNames": {"pattern": "^a$"}}, '{"b":1}', False),
        ({"type": "string"}, '"\n"', False),
        ({"type": "array"}, "[" * 100_000 + "]" * 100_000, False),
        ({"$ref": "http://127.0.0.1:9/x"}, "1", False),
        ({"properties": {"a": {"$id": "http://x/y", "$ref": "#/$defs/b"}}, "$defs": {"b": True}}, '{"a":1}', False),
    ],
)
def test_a_text_is_checked_against_its_schema(schema: dict[str, Any], text: str, expected: bool) -> None:
    """Types, patterns anywhere, syntax, depth; a reference that leads nowhere fits nothing and fetches nothing."""
    assert fits(schema, text) is expected


def test_a_check_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text whose check would take for ever does not fit: the engine goes on after the time limit."""
    monkeypatch.setattr(grammar, "LIMIT_S", 0.2)
    started = time.monotonic()
    assert not fits({"type": "string", "pattern": "^(a+)+$"}, json.dumps("a" * 60 + "b"))
    assert 0.1 < time.monotonic() - started < 5


def test_a_schema_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling ends at the time limit with a reason, and the timer is off again afterwards."""
    monkeypatch.setattr(grammar, "LIMIT_S", 0.05)
    slow = {"type": "object", "properties": {f"p{n}": {} for n in range(900)}}
    with pytest.raises(SchemaError, match="takes longer than"):
        gbnf_of(slow)
    monkeypatch.undo()
    assert gbnf_of({"type": "integer"})


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "properties": {"a": True}}, "true or false"),
        ({"minimum": "x", "type": "integer"}, "no JSON schema"),
        ({"title": "nothing that can be enforced"}, "cannot be enforced"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused_with_a_reason(schema: dict[str, Any], why: str) -> None:
    """Not a schema, or one that the converter does not know: the reason is for the sender."""
    check_schema(schema)
    with pytest.raises(SchemaError, match=why):
        gbnf_of(schema)


def test_strings_hold_no_raw_control_characters() -> None:
    """The grammar of a string has JSON's own characters: the output would not parse otherwise."""
    assert r'[^"\\\x7F\x00-\x1F]' in gbnf_of({"type": "string"})
