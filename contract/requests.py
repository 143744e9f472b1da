"""Requests: what a client may publish, and how its bytes become a `Request` or a `Refused`.

A payload whose first character is `{` is meant as JSON and must be a valid request object; anything else is
a plain prompt. Unknown fields are ignored.
"""

import contextlib
import hashlib
import re
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from contract import limits
from contract.errors import Refused
from contract.ids import END, ID_PATTERN, ID_RULE, is_id
from contract.json_schema import check_schema
from contract.status import Status

_BOM = b"\xef\xbb\xbf"  # some systems put it before UTF-8 text

Privacy = Literal["local", "site", "redact", "any"]
Id = Annotated[str, Meta(pattern=ID_PATTERN, description=f"An id: {ID_RULE}.")]
REFERENCE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,62})?" + END
REFERENCE_RULE = f"`name` or `name@version`; a name is {ID_RULE}"
Reference = Annotated[str, Meta(pattern=REFERENCE_PATTERN, description="`name` or `name@version`.")]
Text = Annotated[str, Meta(max_length=limits.MAX_PAYLOAD_BYTES)]


Role = Literal["system", "user", "assistant", "tool"]
Task = Literal["generate", "embed"]
Activation = Literal["prompt", "user"]
# Why a request is not simply answered by the node that has it: no such model, adapter or task; longer than the context;
# too late by the prediction; no engine, or too hot; its answer would probably be wrong.
Reason = Literal["capability", "context", "queue", "health", "confidence"]
FormatType = Literal["text", "json_object", "json_schema"]


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """One part of a message's content; text is the only kind."""

    text: Text


class Message(msgspec.Struct, frozen=True):
    """One chat turn."""

    role: Role
    content: Text | Annotated[list[TextPart], Meta(min_length=1, max_length=limits.MAX_MESSAGES)]

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class NamedSchema(msgspec.Struct, frozen=True):
    """OpenAI's wrapper around a JSON schema."""

    schema: dict[str, Any]


class ResponseFormat(msgspec.Struct, frozen=True):
    """What form the answer must have."""

    type: FormatType
    json_schema: NamedSchema | None = None


class Handed(msgspec.Struct, frozen=True):
    """Set by a node that hands a request on: for whom, and why. A request that has it is not handed on again."""

    client: Id
    why: Reason


Stop = Annotated[str, Meta(min_length=1, max_length=limits.MAX_STOP_CHARS)]


# What of a request holds somebody's words.
TEXT_FIELDS = ("messages", "prompt", "input", "stop", "response_format")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request. Exactly one of `messages`, `prompt` and `input` is given; the vocabulary is OpenAI's."""

    id: Id | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MAX_MESSAGES)] | None = None
    prompt: Annotated[str, Meta(min_length=1, max_length=limits.MAX_PAYLOAD_BYTES)] | None = None
    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=limits.MAX_INPUTS)] | None = None
    task: Task = "generate"
    model: Reference | None = None
    adapter: Reference | UnsetType | None = UNSET
    activation: Activation | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.5, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=limits.MAX_STOP_STRINGS)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[int, Meta(ge=0, le=2**31 - 1)], Annotated[float, Meta(ge=-100, le=100)]],
            Meta(max_length=limits.MAX_LOGIT_BIAS),
        ]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    truncate: bool = False
    stream: bool = False
    exp: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    ttl_ms: Annotated[int, Meta(ge=1, le=limits.MAX_TTL_MS)] | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 4
    privacy: Privacy | None = None
    conversation: Id | None = None
    reply_to: Annotated[str, Meta(min_length=1, max_length=limits.MAX_TOPIC_BYTES)] | None = None
    handed: Handed | None = None

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The chat turns as (role, text)."""
        if self.messages is not None:
            return [(m.role, m.text) for m in self.messages]
        return [("user", self.prompt or "")]

    @property
    def texts(self) -> list[str]:
        """The texts to work on, for tasks that take `input`."""
        return [self.input] if isinstance(self.input, str) else list(self.input or ())

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """The JSON schema the answer must fit, or None for free text."""
        form = self.response_format
        if form is None or form.type == "text":
            return None
        return form.json_schema.schema if form.type == "json_schema" and form.json_schema else {"type": "object"}

    @property
    def texts_sha256(self) -> str:
        """SHA-256 in hex of all that somebody wrote in it: what is recorded of a request in place of its texts."""
        plain = msgspec.to_builtins(self, str_keys=True)
        return hashlib.sha256(
            msgspec.json.encode([plain[name] for name in TEXT_FIELDS], order="deterministic")
        ).hexdigest()

    def digest(self) -> bytes:
        """32 bytes that are equal for two sendings of the same question.

        Left out is what a retry may change: the id, the deadline, where the answer goes, and why it was handed on.
        """
        same = msgspec.structs.replace(self, id=None, exp=None, ttl_ms=None, reply_to=None, handed=None)
        # A deterministic order exists for text keys only, and those of `logit_bias` are numbers.
        plain = msgspec.to_builtins(same, str_keys=True)
        return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).digest()


class Cancel(msgspec.Struct, frozen=True):
    """Stops the request `id` of the client in the topic."""

    id: Id


def is_plain(payload: bytes) -> bool:
    """Whether a payload is a plain prompt and not a JSON object."""
    return payload.removeprefix(_BOM).lstrip(b" \t\r\n")[:1] != b"{"


def decode_request(payload: bytes) -> Request:
    """Reads a request of either form.

    Raises:
        Refused: 400 with the field at fault, or 413 for a payload over the limit.
    """
    if len(payload) > limits.MAX_PAYLOAD_BYTES:
        raise Refused(
            Status.TOO_LARGE,
            "payload",
            f"cannot accept a payload of {len(payload)} bytes: at most {limits.MAX_PAYLOAD_BYTES} are accepted",
        )
    payload = payload.removeprefix(_BOM)
    if is_plain(payload):
        return _plain(payload)
    request = _decode(payload, Request)
    _check(request)
    return request


def decode_cancel(payload: bytes) -> Cancel:
    """Reads a cancel message.

    Raises:
        Refused: 400 with the field at fault.
    """
    return _decode(payload[: limits.MAX_PAYLOAD_BYTES], Cancel)


def _plain(payload: bytes) -> Request:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise _not_utf8(payload) from None
    if not text.strip():
        raise Refused(Status.INVALID, "prompt", "cannot answer an empty prompt: send some text")
    return Request(prompt=text)


T = TypeVar("T")


def _decode(payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except UnicodeDecodeError:
        raise _not_utf8(payload) from None
    except msgspec.ValidationError as error:
        _refuse_field(payload, str(error))
    except (msgspec.DecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(
            Status.INVALID, "payload", f"cannot read the payload as JSON: {why}; send a JSON object or plain text"
        ) from None


def _not_utf8(payload: bytes) -> Refused:
    where = ""
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        where = f": byte {error.start} is wrong"
    return Refused(Status.INVALID, "payload", f"cannot read the payload as UTF-8{where}; send UTF-8 text")


# The last place: before it a complaint may quote the sender, who could write the like.
_AT = re.compile(r"(?P<expected>.*) - at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_CHOICES = {
    name: get_args(choice)
    for name, choice in {
        "role": Role,
        "task": Task,
        "type": FormatType,
        "privacy": Privacy,
        "activation": Activation,
        "why": Reason,
    }.items()
}
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def _refuse_field(payload: bytes, complaint: str) -> NoReturn:
    """Turns msgspec's "Expected `int` >= 1 - at `$.max_tokens`" into an error that also names the value."""
    raw: Any = None
    # Such as a number out of range: the complaint says so, and there is no value to show.
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raw = msgspec.json.decode(payload)
    found = _AT.match(complaint)
    path = found["path"] if found else ""
    expected = found["expected"] if found else complaint
    expected = expected.replace(f"matching regex {ID_PATTERN!r}", f"that is an id ({ID_RULE})")
    expected = expected.replace(f"matching regex {REFERENCE_PATTERN!r}", f"that is {REFERENCE_RULE}")
    expected = expected[:1].lower() + expected[1:]
    if found and found["key"]:
        expected = f"as a key, {expected}"
    if expected.startswith("invalid enum value"):
        expected = f"expected one of {', '.join(_CHOICES[path.rpartition('.')[2]])}"
    if expected.startswith("invalid value"):  # of a tag; there is one kind of part
        expected = "expected text"
    value = raw
    for name, index in _STEP.findall(path):
        if name and isinstance(value, dict):
            value = value.get(name)
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            value = None
    request_id = raw.get("id") if isinstance(raw, dict) else None
    raise Refused(
        Status.INVALID,
        path or "payload",
        f"cannot accept {path or 'the payload'}{_shown(value)}: {expected}",
        request_id=request_id if isinstance(request_id, str) and is_id(request_id) else None,
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    text = msgspec.json.encode(value).decode()
    return f" = {text if len(text) <= 80 else text[:77] + '…'}"


def _check(request: Request) -> None:
    """The rules that concern more than one field."""

    def refuse(code: str, message: str) -> NoReturn:
        raise Refused(Status.INVALID, code, message, request_id=request.id)

    given = [n for n in ("messages", "prompt", "input") if getattr(request, n) is not None]
    if len(given) != 1:
        what = " and ".join(given) if given else "none of them"
        refuse(
            "messages", f"cannot tell what to answer: exactly one of messages, prompt and input is needed, got {what}"
        )
    if request.task == "generate" and request.input is not None:
        refuse("input", "cannot generate from input: task 'generate' takes messages or prompt")
    if request.task == "embed" and request.input is None:
        refuse("input", f"cannot embed {given[0]}: task 'embed' takes input")
    form = request.response_format
    if form is not None and form.type == "json_schema":
        field = "response_format.json_schema"
        if form.json_schema is None:
            refuse(field, f"cannot accept response_format without {field}: type 'json_schema' needs {{'schema': …}}")
        try:
            check_schema(form.json_schema.schema)
        except ValueError as error:
            refuse(f"{field}.schema", f"cannot accept {field}.schema: {error}")
