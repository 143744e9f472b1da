"""Limits on a JSON schema that somebody sent, before anything compiles it into a grammar.

What a schema costs as a grammar grows with its depth and with the product of its repetition counts, so a
small schema can ask for a huge one. This checks form and cost; it does not need a JSON Schema library.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from contract import limits

TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
# Keywords whose value is one subschema.
SINGLE = (
    "items", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentSchema",
    "not", "contains", "if", "then", "else",
)  # fmt: skip
# What a converter looks at before it looks at `pattern`.
BEFORE_PATTERN = {"$ref", "anyOf", "oneOf", "allOf", "const", "enum"}

_PATTERN_STEP = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|[()*+?|]|.", re.DOTALL)


def check_schema(schema: dict[str, Any]) -> None:
    """Checks that `schema` is a JSON schema of a size that can be enforced.

    Raises:
        ValueError: says which rule is broken, where, and what would be accepted.
    """
    if depth_of(schema) > limits.MAX_SCHEMA_DEPTH:
        raise ValueError(f"it nests deeper than {limits.MAX_SCHEMA_DEPTH} levels")
    try:
        msgspec.msgpack.encode(schema)  # how it travels to the engine
    except OverflowError:
        raise ValueError("it holds an integer beyond 64 bits") from None
    size = len(msgspec.json.encode(schema))
    if size > limits.MAX_SCHEMA_BYTES:
        raise ValueError(f"it has {size} bytes; at most {limits.MAX_SCHEMA_BYTES} are accepted")
    for count, (at, node) in enumerate(_nodes(schema, "$")):
        if count >= limits.MAX_SCHEMA_NODES:
            raise ValueError(f"it has more than {limits.MAX_SCHEMA_NODES} subschemas")
        if not isinstance(node, dict | bool):
            raise ValueError(f"{at} is {type(node).__name__}; a schema is an object, true or false")
        if isinstance(node, dict):
            _check_node(schema, at, node)
    cost = _cost(schema)
    if cost > limits.MAX_SCHEMA_NODES * limits.MAX_SCHEMA_REPEAT:
        raise ValueError("its repetitions multiply to too large a grammar; lower maxItems or maxLength, or nest less")


def depth_of(value: Any) -> int:
    """How deep lists and objects nest in a decoded JSON value. Does not recurse."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    return depth


def _nodes(schema: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The schema and all its subschemas, each with its place."""
    yield at, schema
    for step, child in _children(schema, at):
        yield from _nodes(child, f"{at}.{step}")


def _children(schema: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The direct subschemas of a schema, each with the step that leads to it."""
    if not isinstance(schema, dict):
        return
    for key in ("properties", "dependentSchemas", "$defs", "definitions"):
        children = schema.get(key, {})
        if not isinstance(children, dict):
            raise ValueError(f"{at}.{key} must be an object of schemas")
        yield from ((f"{key}.{name}", child) for name, child in children.items())
    for key in SINGLE:
        if key in schema:
            yield key, schema[key]
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        children = schema.get(key, [])
        if not isinstance(children, list) or (key in schema and not children):
            raise ValueError(f"{at}.{key} must be a list of at least one schema")
        yield from ((f"{key}[{index}]", child) for index, child in enumerate(children))


def _check_node(root: dict[str, Any], at: str, node: dict[str, Any]) -> None:
    kinds = node.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            raise ValueError(f"{at}.type is {kind!r}; a type is one of {', '.join(sorted(TYPES))}")
    for key in COUNTS:
        number = node.get(key, 0)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= limits.MAX_SCHEMA_REPEAT:
            raise ValueError(f"{at}.{key} is {number!r}; an integer from 0 to {limits.MAX_SCHEMA_REPEAT} is accepted")
    enum = node.get("enum", [None])
    if not isinstance(enum, list) or not enum:
        raise ValueError(f"{at}.enum must be a list of at least one value")
    required = node.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"{at}.required must be a list of property names")
    if "pattern" in node:
        _check_pattern(at, node)
    if "patternProperties" in node or "$dynamicRef" in node:
        raise ValueError(f"{at} uses patternProperties or $dynamicRef, which cannot be enforced while decoding")
    if "$ref" in node:
        _resolve(root, node["$ref"], at)


def _check_pattern(at: str, node: dict[str, Any]) -> None:
    """A pattern is enforced by the grammar alone: Python's `re` can take for ever on a hostile one."""
    pattern = node["pattern"]
    if not isinstance(pattern, str) or len(pattern) > limits.MAX_SCHEMA_PATTERN_CHARS:
        raise ValueError(f"{at}.pattern must be a string of at most {limits.MAX_SCHEMA_PATTERN_CHARS} characters")
    if node.get("type") != "string" or BEFORE_PATTERN & node.keys():
        raise ValueError(
            f"{at}.pattern is enforced only beside type 'string' and without {', '.join(sorted(BEFORE_PATTERN))}"
        )
    cost, nested = _pattern_cost(pattern)
    if cost > limits.MAX_SCHEMA_REPEAT or nested > limits.MAX_SCHEMA_NESTED_REPEAT:
        raise ValueError(
            f"{at}.pattern repeats too much; its counts may make up {limits.MAX_SCHEMA_REPEAT} in all, and"
            f" {limits.MAX_SCHEMA_NESTED_REPEAT} where a counted group holds further repetitions"
        )


def _pattern_cost(pattern: str) -> tuple[int, int]:
    """How many symbols a pattern is with its counts written out, and of these in counted groups that repeat inside."""
    groups: list[tuple[int, bool]] = []  # of the enclosing groups: cost so far, and whether anything repeats in them
    cost, repeats = 0, False
    item, item_repeats = 0, False  # the last item, which a quantifier would concern
    nested = 0
    for step in _PATTERN_STEP.finditer(pattern):
        match step[0][0]:
            case "(":
                groups.append((cost, repeats))
                cost, repeats = 0, False
            case ")" if groups:
                item, item_repeats = cost, repeats
                cost, repeats = groups[-1][0] + item, groups[-1][1] or repeats
                groups.pop()
            case "{" if step[1] or step[2]:
                times = max(int(step[1] or 0), int(step[2] or 0), 1)
                cost += item * (times - 1)
                if item_repeats and times > 1:
                    nested = max(nested, item * times)
                item, item_repeats, repeats = item * times, True, True
            case "*" | "+" | "?":
                item_repeats = repeats = True
            case _:
                item, item_repeats = 1, False
                cost += 1
    return cost, nested


def _resolve(root: dict[str, Any], ref: Any, at: str) -> Any:
    """The schema that a local reference names. References elsewhere are refused: nothing is ever fetched."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        raise ValueError(f"{at}.$ref is {ref!r}; only references inside the schema, '#/…', are accepted")
    found: Any = root
    for step in ref[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"{at}.$ref is {ref!r}, which names nothing in the schema")
        found = found[name]
    return found


def _cost(schema: Any) -> int:
    """About how many grammar symbols a schema becomes; references count once, where they are defined."""
    if not isinstance(schema, dict):
        return 1
    cost: int = 1 + max(schema.get("maxLength", 0), schema.get("minLength", 0), len(schema.get("enum", ())))
    for step, child in _children(schema, ""):
        repeat = max(1, schema.get("maxItems", 1), schema.get("minItems", 1)) if step == "items" else 1
        cost += _cost(child) * repeat
    return cost
