"""Constrained output: a JSON schema becomes a grammar while decoding and is checked once more afterwards."""

import ctypes
import json
from typing import Any

from llama_cpp import llama_cpp as lib
from llama_cpp.llama_grammar import json_schema_to_gbnf

from agent.engine.llama import Model

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
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaError(f"it is no JSON schema: {error.message}") from None
    try:
        return str(json_schema_to_gbnf(json.dumps(schema))).replace(_LOOSE_CHAR, _STRICT_CHAR)
    except Exception as error:  # noqa: BLE001  # the converter fails with whatever Python raises on what it does not know
        reason = str(error) if isinstance(error, ValueError | AssertionError) else type(error).__name__
        raise SchemaError(f"it uses something that cannot be enforced while decoding: {reason[:200]}") from None


def fits(schema: dict[str, Any], text: str) -> bool:
    """Whether `text` is JSON that fits `schema`."""
    import jsonschema
    import referencing

    # Without `pattern`: the grammar has enforced it, and Python's `re` can take for ever on a hostile one.
    validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # its stubs leave it untyped
        jsonschema.Draft202012Validator, {"pattern": lambda *_: None}
    )
    try:
        # An empty registry: the library would otherwise fetch what a reference names from the network.
        validator(schema, registry=referencing.Registry()).validate(json.loads(text))
    except (ValueError, RecursionError, jsonschema.ValidationError, referencing.exceptions.Unresolvable):
        return False
    return True


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
