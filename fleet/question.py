"""Requests as a person makes them: from a prompt and options to a checked request, and to its bytes."""

from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from contract import limits
from contract.errors import Refused
from contract.ids import ID_RULE, is_id
from contract.requests import NamedSchema, Request, ResponseFormat, decode_request
from fleet.errors import UsageError


def encode_request(request: Request) -> bytes:
    """The request as JSON, without the fields that say what holds anyway."""
    fields = msgspec.structs.fields(request)
    given = {field.name: getattr(request, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    return msgspec.json.encode({name: value for name, value in given.items() if value != defaults[name]})


def check_request(fields: dict[str, Any]) -> Request:
    """The request that `fields` make. Fields that are None are left out; `adapter` may be: None is the base.

    Raises:
        UsageError: a field is not what the contract accepts.
    """
    absent = {"adapter": msgspec.UNSET}
    given = {name: value for name, value in fields.items() if value is not absent.get(name)}
    try:
        return decode_request(msgspec.json.encode(given))
    except Refused as refused:
        raise UsageError(refused.message) from None


def check_id(what: str, value: str) -> str:
    """`value`, when it is an id.

    Raises:
        UsageError: it is not; `what` names it.
    """
    if not is_id(value):
        raise UsageError(f"cannot use {what} {value!r}: an id is {ID_RULE}")
    return value


def prompt_fields(prompt: str, system: str | None) -> dict[str, Any]:
    """A prompt alone, or chat turns when there is a system text."""
    if system is None:
        return {"prompt": prompt}
    turns = [("system", system), ("user", prompt)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def read_prompt(argument: str, stdin: BinaryIO) -> str:
    """The prompt itself, or what `stdin` holds when the argument is `-`.

    Raises:
        UsageError: there is nothing, too much, or no text.
    """
    text = argument
    if argument == "-":
        raw = stdin.read(limits.MAX_PAYLOAD_BYTES + 1)
        if len(raw) > limits.MAX_PAYLOAD_BYTES:
            limit = f"at most {limits.MAX_PAYLOAD_BYTES} bytes are accepted"
            raise UsageError(f"cannot send what is on standard input as a prompt: {limit}; shorten it")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"cannot read the prompt: byte {error.start} is not UTF-8; convert it") from None
    if not text.strip():
        raise UsageError("cannot send an empty prompt: write some text, or - to read standard input")
    return text


def read_schema(argument: str) -> ResponseFormat:
    """The response format for a JSON schema, given as JSON text or as the name of a file that holds it.

    Raises:
        UsageError: the file cannot be read, or this is no JSON object.
    """
    text = argument
    if not argument.lstrip().startswith("{"):
        try:
            text = Path(argument).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise UsageError(
                f"cannot read --schema {argument!r}: {str(why).lower()}; name a file with a JSON schema, "
                'or write the schema itself, {"type": …}'
            ) from error
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"cannot read --schema {argument[:80]!r} as JSON: {error}; write a JSON schema") from None
    if not isinstance(schema, dict):
        raise UsageError(f"cannot use --schema {argument[:80]!r}: a JSON schema is an object; write {{…}}")
    return ResponseFormat("json_schema", NamedSchema(schema))
