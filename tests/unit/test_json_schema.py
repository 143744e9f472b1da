"""The check of schemas that somebody sends: form and cost, in bounded time, before anything compiles them."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract import limits
from contract.json_schema import check_schema, depth_of
from tests.unit.hostile_json import TEXTS, values

WRONG_COUNTS: list[Any] = [-1, 257, 10**9, 1.5, 1.0, True, None, "3", [], {}]
LIMIT_S = 2.0  # a schema of the largest size takes 0.02 s

KEYWORDS = [
    "type", "properties", "patternProperties", "additionalProperties", "propertyNames", "required", "items",
    "prefixItems", "contains", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "multipleOf", "enum", "const", "anyOf", "oneOf", "allOf", "not", "if", "then", "else",
    "$ref", "$defs", "definitions", "$id", "$schema", "$anchor", "$dynamicRef", "dependentSchemas", "dependentRequired",
    "minProperties", "maxProperties", "unevaluatedProperties", "title", "description", "default", "examples",
]  # fmt: skip


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


GOOD = [
    {},
    {"type": "object"},
    {"type": ["string", "null"]},
    _object(actions={"type": "array", "items": _object(device={"type": "string"}), "maxItems": 5}),
    _object(level={"type": "integer", "minimum": 0, "maximum": 100}, scene={"enum": ["film", "party", None, 3]}),
    {"$defs": {"a": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/a"}},
    {"definitions": {"a/b~c": {"const": 1}}, "$ref": "#/definitions/a~1b~0c"},
    {"anyOf": [{"type": "string", "maxLength": 256}, {"type": "null"}, True, False]},
    {"$defs": {"tree": _object(left={"$ref": "#/$defs/tree"}, right={"$ref": "#/$defs/tree"})}, "$ref": "#/$defs/tree"},
    {"$ref": "#"},
    _object(**{"a.b": {}, "a/b": {}, "": {}, "$ref": {"type": "string"}, "pattern": {"type": "integer"}, "é": True}),
    {"type": "string", "pattern": "^[a-z]{1,8}$", "minLength": 0, "maxLength": limits.MAX_SCHEMA_REPEAT},
    {"enum": [{"$ref": "http://x", "pattern": 3, "type": "none"}]},
    {"const": {"maxItems": -1}},
    {
        "title": "t",
        "description": 3,
        "x-own": [{"deep": {}}],
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    },
    _nested(limits.MAX_SCHEMA_DEPTH - 1),
    {"items": {"items": {"type": "string"}, "maxItems": 50}, "maxItems": 50},
]


@pytest.mark.parametrize("schema", GOOD, ids=range(len(GOOD)))
def test_a_reasonable_schema_passes(schema: dict[str, Any]) -> None:
    """Types, unions, references, recursion, odd property names, and values that only look like schemas."""
    check_schema(schema)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": "text"}, r"\$\.type is 'text'; a type is one of array, boolean"),
    ({"type": 3}, r"\$\.type is 3;"),
    ({"type": None}, r"\$\.type is None;"),
    ({"type": ["string", {}]}, r"\$\.type is \{\};"),
    ({"type": {"a": 1}}, r"\$\.type is "),
    (_object(a={"type": "strin"}), r"\$\.properties\.a\.type is 'strin'"),
    ({"properties": []}, r"\$\.properties must be an object of schemas"),
    ({"properties": None}, r"\$\.properties must be an object of schemas"),
    ({"$defs": 3}, r"\$\.\$defs must be an object of schemas"),
    (_object(a=3), r"\$\.properties\.a is int; a schema is an object, true or false"),
    (_object(a=None), r"\$\.properties\.a is NoneType"),
    (_object(a=[{}]), r"\$\.properties\.a is list"),
    ({"items": [{}]}, r"\$\.items is list"),
    ({"items": "string"}, r"\$\.items is str"),
    ({"additionalProperties": 0}, r"\$\.additionalProperties is int"),
    ({"not": None}, r"\$\.not is NoneType"),
    ({"anyOf": {}}, r"\$\.anyOf must be a list of at least one schema"),
    ({"anyOf": []}, r"\$\.anyOf must be a list of at least one schema"),
    ({"oneOf": [{"type": "object"}, 1]}, r"\$\.oneOf\[1\] is int"),
    ({"allOf": None}, r"\$\.allOf must be a list"),
    ({"prefixItems": "x"}, r"\$\.prefixItems must be a list"),
    ({"enum": []}, r"\$\.enum must be a list of at least one value"),
    ({"enum": {"a": 1}}, r"\$\.enum must be a list of at least one value"),
    ({"enum": "abc"}, r"\$\.enum must be a list of at least one value"),
    ({"required": "a"}, r"\$\.required must be a list of property names"),
    ({"required": ["a", 1]}, r"\$\.required must be a list of property names"),
    ({"pattern": 3}, r"\$\.pattern must be text"),
    ({"pattern": "a"}, r"\$\.pattern must begin with"),
    ({"anyOf": [{"pattern": "^a$"}] * 33}, "more than 32 patterns"),
    (_object(a={"patternProperties": {"^a$": {}}}), r"\$\.properties\.a uses patternProperties"),
    ({"$dynamicRef": "http://127.0.0.1/x"}, r"\$dynamicRef"),
    ({"$ref": "http://127.0.0.1/x"}, r"\$\.\$ref is 'http://127.0.0.1/x'; only references inside"),
    ({"$ref": "other.json#/a"}, "only references inside"),
    ({"$ref": ""}, "only references inside"),
    ({"$ref": 3}, "only references inside"),
    ({"$ref": ["#/a"]}, "only references inside"),
    ({"$ref": "#/$defs/a"}, "names nothing in the schema"),
    ({"$ref": "#/$defs/a", "$defs": {"b": {}}}, "names nothing in the schema"),
    ({"$ref": "#/$defs/a/b/c", "$defs": {"a": True}}, "names nothing in the schema"),
    ({"$ref": "#/anyOf/0", "anyOf": [{}]}, "names nothing in the schema"),
    ({"$ref": "#/$defs", "$defs": {"type": {}}}, "names a value that is no schema"),
    ({"$ref": "#/const", "const": {"type": "string", "pattern": "(.?){24}"}}, "names a value that is no schema"),
    ({"items": {"$ref": "#/default"}, "default": {"maxItems": 10**9}}, "names a value that is no schema"),
    *(({key: wrong}, rf"\$\.{key} is .*; an integer from 0 to 256 is accepted")
      for key in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
      for wrong in WRONG_COUNTS),
    ({"const": 2**64}, "an integer beyond 64 bits"),
    ({"enum": [{"a": [-(2**63) - 1]}]}, "an integer beyond 64 bits"),
    (_nested(limits.MAX_SCHEMA_DEPTH), "nests deeper than 24 levels"),
    (_nested(300), "nests deeper than 24 levels"),
    ({"const": json.loads("[" * 300 + "]" * 300)}, "nests deeper than 24 levels"),
    ({"anyOf": [{}] * 1000}, "more than 1000 subschemas"),
    (_object(**{f"p{n}": {} for n in range(129)}), "more than 128 properties"),
    ({"items": {"items": {"items": {}, "maxItems": 256}, "maxItems": 256}, "maxItems": 256}, "multiply"),
    ({"items": {"items": {"items": {"maxLength": 200}, "minItems": 50}, "maxItems": 50}, "minItems": 50}, "multiply"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "why"), BAD, ids=range(len(BAD)))
def test_a_schema_that_cannot_be_enforced_is_refused_with_place_and_reason(schema: dict[str, Any], why: str) -> None:
    """Wrong types of every keyword, foreign and dangling references, and too much of anything: the place is named."""
    with pytest.raises(ValueError, match=why):
        check_schema(schema)


def test_a_schema_of_the_largest_size_passes() -> None:
    """16 KiB are accepted, one byte more is refused with both numbers."""
    schema = {"title": "x" * (limits.MAX_SCHEMA_BYTES - len('{"title":""}'))}
    check_schema(schema)
    schema["title"] += "x"
    with pytest.raises(ValueError, match="16385 bytes; at most 16384"):
        check_schema(schema)


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_references_that_multiply_are_refused(keyword: str) -> None:
    """Each definition that names the next one twice doubles the whole: 40 of them are no small schema.

    `anyOf` kept llama.cpp's start of a grammar busy for 2^n steps, `allOf` and `oneOf` the check of the answer.
    """

    def chain(levels: int) -> dict[str, Any]:
        defs: dict[str, Any] = {
            f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)
        }
        return _object(x={"$ref": "#/$defs/a0"}) | {"$defs": defs | {f"a{levels}": {"type": "object"}}}

    check_schema(chain(4))
    for levels in (18, 40, 150):
        with pytest.raises(ValueError, match=r"multiply|begin alike"):
            check_schema(chain(levels))


ARRAYS_OF_THEMSELVES = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": n} for n in range(5)]}
ANY_JSON = {
    "anyOf": [
        {"type": "array", "items": {"$ref": "#/$defs/any"}},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/any"}},
        {"type": ["string", "number", "boolean", "null"]},
    ]
}


def _tools(count: int) -> dict[str, Any]:
    return {"anyOf": [_object(tool={"const": n}, arguments={"type": "object"}) for n in range(count)]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"any": ANY_JSON}, "$ref": "#/$defs/any"},
        {
            "$defs": {"tree": _object(left={"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]})},
            "$ref": "#/$defs/tree",
        },
        _tools(limits.MAX_SCHEMA_ALIKE),
        {"type": "array", "items": _tools(5)},
        {"enum": list(range(2000))},
    ],
    ids=range(5),
)
def test_alternatives_that_are_told_apart_pass(schema: dict[str, Any]) -> None:
    """Recursion, unions of types and some kinds of objects: a text soon says which alternative it is."""
    check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": ARRAYS_OF_THEMSELVES}, "type": "array", "items": {"$ref": "#/$defs/a"}},
        {"$defs": {"a": ARRAYS_OF_THEMSELVES}, "properties": {"$defs.": {"items": {"$ref": "#/$defs/a"}}}},
        _tools(limits.MAX_SCHEMA_ALIKE + 1),
        {"anyOf": [{"type": "array", "items": {"oneOf": [{"type": "array", "items": _tools(4)}] * 3}}] * 3},
        {"type": "object", "additionalProperties": {"anyOf": [_tools(20), _tools(20)]}},
    ],
    ids=range(5),
)
def test_alternatives_that_begin_alike_are_limited_through_all_levels(schema: dict[str, Any]) -> None:
    """Arrays in arrays of themselves in five ways would be 5^n places where a text may stand after n brackets."""
    with pytest.raises(ValueError, match="begin alike"):
        check_schema(schema)


def test_a_chain_of_references_ends() -> None:
    """References to themselves, around a circle and in a long row are read in a bounded number of steps."""
    check_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    check_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}})
    row = {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(400)} | {"400": {}}
    check_schema({"$ref": "#/$defs/0", "$defs": row})


def test_repetitions_of_what_is_referred_to_count() -> None:
    """A definition that is repeated 256 times three deep is refused like one that is written in place."""
    defs = {
        "a": {"items": {"$ref": "#/$defs/b"}, "maxItems": 256},
        "b": {"items": {"$ref": "#/$defs/c"}, "maxItems": 256},
        "c": {"items": {"type": "string"}, "maxItems": 256},
    }
    check_schema({"$defs": defs, "$ref": "#/$defs/b"})
    with pytest.raises(ValueError, match="multiply"):
        check_schema({"$defs": defs, "$ref": "#/$defs/a"})


@given(st.dictionaries(st.sampled_from(KEYWORDS) | TEXTS, values(st.sampled_from(KEYWORDS) | TEXTS), max_size=5))
@example({"$ref": "#/"})
@example({"$ref": "#/a", "a": {"$ref": "#/a"}})
@example({"properties": {"": {"$ref": "#/properties/"}}})
@example({"type": [[]]})
@example({"items": {"$ref": "#x"}})
def test_any_object_passes_or_is_refused(schema: dict[str, Any]) -> None:
    """Whatever stands at any keyword: no error but ValueError, and soon."""
    started = time.monotonic()
    try:
        check_schema(schema)
    except ValueError as error:
        assert str(error)
    assert time.monotonic() - started < LIMIT_S


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [1] * 8000},
        {"required": ["a"] * 4000},
        {"anyOf": [{"enum": [1]}] * 999},
        {"$defs": {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(450)} | {"450": {}}, "$ref": "#/$defs/0"},
        {"$defs": {f"{n}": {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(240)} | {"240": {}}},
        {"anyOf": [{"pattern": "^([a-z]{1,9}-){1,90}$"}] * 32},
        {"anyOf": [{"pattern": "^([a-z]{1,9}-){1,90}$"}] * 300},
        {"const": "x" * 200_000},
        {"const": [[[1] * 1000] * 100]},
    ],
    ids=range(9),
)
def test_the_check_is_quick(schema: dict[str, Any]) -> None:
    """Schemas at and over every limit are judged at once."""
    started = time.monotonic()
    with contextlib.suppress(ValueError):
        check_schema(schema)
    assert time.monotonic() - started < LIMIT_S


@given(values())
def test_the_depth_of_a_value_is_how_often_it_nests(value: Any) -> None:
    """The same number as a recursive count gives."""

    def deep(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(deep, inner), default=0)

    assert depth_of(value) == deep(value)


def test_the_depth_of_a_value_of_any_depth_is_found() -> None:
    """It does not recurse, so nothing overflows."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert depth_of(value) == 100_001
