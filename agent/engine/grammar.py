"""Constrained output: a JSON schema becomes a grammar while decoding and is checked once more afterwards."""

import ctypes
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_cpp as lib
from llama_cpp.llama_grammar import SchemaConverter

from agent.engine.llama import Model
from contract.automaton import Chars, Choice, Node, Repeat, Row
from contract.json_schema import resolve, subschemas
from contract.pattern import parse_pattern

# A schema is somebody else's program: to compile it and to check a text against it may take this long.
LIMIT_S = 2.0

# The converter lets strings hold raw control characters, which JSON forbids: the output would then not parse.
_LOOSE_CHAR = 'char ::= [^"\\\\]'
_STRICT_CHAR = r'char ::= [^"\\\x7F\x00-\x1F]'


class SchemaError(Exception):
    """The schema cannot be enforced; the message says why."""


def gbnf_of(schema: dict[str, Any]) -> str:
    """The grammar of all JSON texts that fit `schema`, in llama.cpp's GBNF.

    Raises:
        SchemaError: it is no JSON schema, or uses what a grammar cannot express.
    """
    import jsonschema  # 0.1 s, which the start of an engine need not wait for

    try:
        with _time_limit():
            jsonschema.Draft202012Validator.check_schema(schema)
            return _Converter().gbnf(schema).replace(_LOOSE_CHAR, _STRICT_CHAR)
    except jsonschema.SchemaError as error:
        raise SchemaError(f"it is no JSON schema: {error.message}") from None
    except TimeoutError:
        raise SchemaError(f"it takes longer than {LIMIT_S:g} s to compile") from None
    except Exception as error:  # noqa: BLE001  # the converter fails with whatever Python raises on what it does not know
        reason = str(error) if isinstance(error, ValueError | AssertionError) else type(error).__name__
        raise SchemaError(f"it uses something that cannot be enforced while decoding: {reason[:200]}") from None


def fits(schema: dict[str, Any], text: str) -> bool:
    """Whether `text` is JSON that fits `schema`."""
    import jsonschema
    import referencing

    try:
        with _time_limit():
            # An empty registry: the library would otherwise fetch what a reference names from the network.
            validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
            validator.validate(json.loads(text))
    except (
        ValueError, RecursionError, TimeoutError, jsonschema.ValidationError, referencing.exceptions.Unresolvable,
    ):  # fmt: skip
        return False
    return True


class _Converter(SchemaConverter):
    """llama-cpp-python's converter, which writes literals with a quote, a backslash or other than ASCII wrongly, takes
    a reference for a property or type of the same name, and for ever reads some patterns: these parts are ours.
    """

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)  # type: ignore[no-untyped-call]  # this and what follows: it has no types
        self._names: dict[str, str] = {}  # of the rules for references

    def gbnf(self, schema: dict[str, Any]) -> str:
        """The grammar of a schema."""
        nodes = [node for _, node in subschemas(schema, "$") if isinstance(node, dict)]
        self._refs = {node["$ref"]: resolve(schema, node["$ref"], "$") for node in nodes if "$ref" in node}
        self._rules["root"] = self.visit(schema, "it")
        return str(self.format_grammar())  # type: ignore[no-untyped-call]

    def visit(self, schema: Any, name: str) -> str:
        """The name of the rule for a schema."""
        if isinstance(schema, bool):
            raise ValueError("true or false stands for a schema; give one with a type")
        return str(super().visit(schema, name))  # type: ignore[no-untyped-call]

    def _resolve_ref(self, ref: str) -> str:
        """The name of the rule for what a reference names, which may be on its way to refer to itself."""
        if ref not in self._names:
            name = self._names[ref] = f"ref-{len(self._names)}"
            rule = self.visit(self._refs[ref], name)
            if rule != name:
                self._rules[name] = rule
        return self._names[ref]

    def _format_literal(self, literal: str) -> str:
        """A literal for JSON text."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _visit_pattern(self, pattern: str, name: str) -> str:
        return str(self._add_rule(name, rf'"\"" {_gbnf_of(parse_pattern(pattern))} "\"" space'))  # type: ignore[no-untyped-call]


def _gbnf_of(node: Node) -> str:
    """A part of a pattern in GBNF."""
    match node:
        case Chars(ranges):
            spans = (rf"\U{low:08X}-\U{high:08X}" for low, high in ranges)
            return f"[{''.join(spans)}]"
        case Row(parts):
            return f"({' '.join(map(_gbnf_of, parts))})" if parts else '""'
        case Choice(options):
            return f"({' | '.join(map(_gbnf_of, options))})"
        case Repeat(part, low, high):
            return f"({_gbnf_of(part)}){{{low},{'' if high is None else high}}}"


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raises TimeoutError in the body after `LIMIT_S`, also inside Python's `re`. For the main thread only."""

    def stop(*_: object) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, stop)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_s)
        signal.signal(signal.SIGALRM, handler)


class Grammar:
    """A grammar's state while one text is decoded.

    Checking only the token that was sampled costs 0.003 ms; running the whole vocabulary through the grammar
    costs 3.7 ms, so that is done only when the sampled token does not fit.
    """

    def __init__(self, model: Model, schema: dict[str, Any]) -> None:
        self.sampler = lib.llama_sampler_init_grammar(model.vocab, gbnf_of(schema).encode(), b"root")
        if not self.sampler:
            raise SchemaError("llama.cpp refuses its grammar")
        self._one = (lib.llama_token_data * 1)()

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        self._one[0] = lib.llama_token_data(id=token, logit=1.0, p=0.0)
        array = lib.llama_token_data_array(data=self._one, size=1, selected=-1, sorted=False)
        lib.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return bool(self._one[0].logit > 0)

    def accept(self, token: int) -> None:
        """Moves on by one token, which `allows` must have said yes to: llama.cpp aborts otherwise."""
        lib.llama_sampler_accept(self.sampler, token)

    def close(self) -> None:
        """Frees it."""
        lib.llama_sampler_free(self.sampler)
