"""Limits on a JSON schema that somebody sent, before anything compiles it into a grammar.

What a schema costs as a grammar grows with its depth and with the product of its repetition counts, so a
small schema can ask for a huge one. What a token costs grows with the square of the places where a text may
stand in the grammar, and alternatives that begin alike multiply from level to level: five kinds of arrays in
arrays of themselves took 0.2 s a token three levels deep, and a minute at six.

This checks form and cost; it does not need a JSON Schema library.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from contract import limits
from contract.pattern import parse_pattern

TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}
DEFS = ("$defs.", "definitions.")  # steps to schemas that count where they are referred to
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
# Keywords whose value is one subschema.
SINGLE = (
    "items", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentSchema",
    "not", "contains", "if", "then", "else",
)  # fmt: skip


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
    nodes = list(islice(subschemas(schema, "$"), limits.MAX_SCHEMA_NODES + 1))
    if len(nodes) > limits.MAX_SCHEMA_NODES:
        raise ValueError(f"it has more than {limits.MAX_SCHEMA_NODES} subschemas")
    if sum("pattern" in node for _, node in nodes if isinstance(node, dict)) > limits.MAX_SCHEMA_PATTERNS:
        raise ValueError(f"it has more than {limits.MAX_SCHEMA_PATTERNS} patterns")
    known = {id(node) for _, node in nodes}
    for at, node in nodes:
        if not isinstance(node, dict | bool):
            raise ValueError(f"{at} is {type(node).__name__}; a schema is an object, true or false")
        if isinstance(node, dict):
            _check_node(at, node)
            if "$ref" in node and id(resolve(schema, node["$ref"], at)) not in known:
                raise ValueError(f"{at}.$ref is {node['$ref']!r}, which names a value that is no schema")
    try:
        cost = _cost(schema, schema, {})
        alike = _num_alike(schema, nodes)
    except RecursionError:
        raise ValueError("its references lead too deep") from None
    if alike > limits.MAX_SCHEMA_ALIKE:
        raise ValueError(
            f"it has more than {limits.MAX_SCHEMA_ALIKE} alternatives that begin alike, counted through all levels;"
            " let a type, a value or a property tell them apart, or nest less"
        )
    if cost > limits.MAX_SCHEMA_NODES * limits.MAX_SCHEMA_REPEAT:
        raise ValueError(
            "its repetitions and references multiply to too large a grammar; lower maxItems or maxLength, or nest less"
        )


def depth_of(value: Any) -> int:
    """How deep lists and objects nest in a decoded JSON value. Does not recurse."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    return depth


def subschemas(schema: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The schema and all its subschemas, each with its place."""
    yield at, schema
    for step, child in _children(schema, at):
        yield from subschemas(child, f"{at}.{step}")


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


def _check_node(at: str, node: dict[str, Any]) -> None:
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
        _check_pattern(at, node["pattern"])
    if "patternProperties" in node or "$dynamicRef" in node:
        raise ValueError(f"{at} uses patternProperties or $dynamicRef, which cannot be enforced while decoding")
    if len(node.get("properties", ())) > limits.MAX_SCHEMA_PROPERTIES:
        raise ValueError(f"{at} has more than {limits.MAX_SCHEMA_PROPERTIES} properties")


def _check_pattern(at: str, pattern: Any) -> None:
    try:
        if not isinstance(pattern, str):
            raise ValueError("must be text")
        parse_pattern(pattern)
    except ValueError as error:
        raise ValueError(f"{at}.pattern {error}") from None


def resolve(root: dict[str, Any], ref: Any, at: str) -> Any:
    """What a reference inside the schema names. References elsewhere are refused: nothing is ever fetched.

    Raises:
        ValueError: it is no local reference, or names nothing.
    """
    if not isinstance(ref, str) or not ref.startswith("#"):
        raise ValueError(f"{at}.$ref is {ref!r}; only references inside the schema, '#/…', are accepted")
    found: Any = root
    for step in ref[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"{at}.$ref is {ref!r}, which names nothing in the schema")
        found = found[name]
    return found


def _cost(root: dict[str, Any], schema: Any, of_ref: dict[str, int]) -> int:
    """About how many grammar symbols a schema becomes, with its references written out; one to itself counts once."""
    if not isinstance(schema, dict):
        return 1
    cost: int = 1 + max(schema.get("maxLength", 0), schema.get("minLength", 0), len(schema.get("enum", ())))
    if (ref := schema.get("$ref")) is not None:
        if ref not in of_ref:
            of_ref[ref] = 1
            of_ref[ref] = _cost(root, resolve(root, ref, ""), of_ref)
        cost += of_ref[ref]
    for step, child in _children(schema, ""):
        if step.startswith(DEFS):
            continue
        repeat = max(1, schema.get("maxItems", 1), schema.get("minItems", 1)) if step == "items" else 1
        cost += _cost(root, child, of_ref) * repeat
    return cost


def _num_alike(root: dict[str, Any], nodes: list[tuple[str, Any]]) -> int:
    """In how many ways the beginning of a text may be meant at once; 0 for a reference to what is being counted."""
    of_ref: dict[str, dict[str, int]] = {}

    def ways(schema: Any) -> dict[str, int]:
        """The number for each type that a text of `schema` may have."""
        if not isinstance(schema, dict):
            return {}
        if (ref := schema.get("$ref")) is not None:
            if ref not in of_ref:
                of_ref[ref] = {}
                of_ref[ref] = ways(resolve(root, ref, ""))
            return of_ref[ref]
        if branches := schema.get("oneOf") or schema.get("anyOf"):
            found: dict[str, int] = {}
            for branch in branches:
                for kind, number in ways(branch).items():
                    found[kind] = found.get(kind, 0) + number
            return found
        inside = max(
            (most(ways(child)) for step, child in _children(schema, "") if not step.startswith(DEFS)), default=1
        )
        kinds = schema.get("type", [])
        here = max(1, inside, len(schema.get("enum", ())) // limits.MAX_SCHEMA_PROPERTIES)
        return dict.fromkeys([kinds] if isinstance(kinds, str) else kinds or TYPES, here)

    def most(found: dict[str, int]) -> int:
        return max(found.values(), default=1)

    total = most(ways(root))
    once = dict(of_ref)
    for ref, found in once.items():
        # Counted again, with its references to itself: when that is more, each level multiplies.
        if most(ways(resolve(root, ref, ""))) > most(found):
            return limits.MAX_SCHEMA_ALIKE + 1
    return max([total, *map(most, once.values()), *(most(ways(node)) for _, node in nodes)])
