"""What a provider is asked, and what it says: OpenAI's chat completions and legacy completions. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from contract.answers import FinishReason
from contract.requests import Request
from fleet.cloud.settings import UpstreamSettings

# Tokens that a template adds to a turn, and to the whole; far more than any that is known.
TURN_TOKENS = 16
TEMPLATE_TOKENS = 64


class Piece(Struct, frozen=True):
    """Some of the text."""

    text: str


class Spent(Struct, frozen=True):
    """The tokens that the provider counted."""

    prompt_tokens: int
    completion_tokens: int


class Ended(Struct, frozen=True):
    """The end of the answer. `spent` is None when the provider does not say."""

    finish_reason: FinishReason
    spent: Spent | None


class Malformed(ValueError):
    """What a provider said is not what its API says."""


def path_of(upstream: UpstreamSettings) -> str:
    """Where it is asked, below its URL."""
    return "/chat/completions" if upstream.style == "chat" else "/completions"


def body_of(request: Request, upstream: UpstreamSettings, *, stream: bool) -> dict[str, Any]:
    """The JSON body: nothing but what is listed here leaves for a provider."""
    body: dict[str, Any] = {"model": upstream.model, "max_tokens": num_completion(request, upstream), "stream": stream}
    if upstream.style == "chat":
        body["messages"] = [{"role": role, "content": text} for role, text in request.turns]
        if request.response_format is not None and (schema := request.output_schema) is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            is_free = request.response_format.type == "json_object"
            body["response_format"] = (
                {"type": "json_object"} if is_free else {"type": "json_schema", "json_schema": named}
            )
    else:
        body["prompt"] = prompt_of(request)
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.stops:
        body["stop"] = request.stops[:4]  # OpenAI's limit
    for name in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    return body


def prompt_of(request: Request) -> str:
    """All turns as one text, for a server without turns: a single one as it is."""
    if len(request.turns) == 1:
        return request.turns[0][1]
    said = "".join(f"{role.capitalize()}: {text}\n\n" for role, text in request.turns)
    return f"{said}Assistant:"


def num_completion(request: Request, upstream: UpstreamSettings) -> int:
    """The most tokens of the answer."""
    return min(request.max_tokens or upstream.max_tokens, upstream.max_tokens)


def most_tokens(request: Request) -> int:
    """More prompt tokens than there can be: a token is a byte at least, and a template adds some to each turn."""
    texts = sum(len(text.encode(errors="replace")) + TURN_TOKENS for _, text in request.turns)
    schema = request.output_schema
    return TEMPLATE_TOKENS + texts + (len(msgspec.json.encode(schema)) if schema else 0)


def read_whole(raw: bytes) -> Iterator[Piece | Ended]:
    """An answer that came as a whole.

    Raises:
        Malformed: it is none.
    """
    said = _decode(raw, _Whole)
    choice = _only(said.choices)
    text = choice.message.content if choice.message is not None else choice.text
    yield Piece(text or "")
    yield Ended(_reason(choice.finish_reason), _spent(said.usage))


class Reader:
    """Reads server-sent events, a line at a time."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._usage: _Usage | None = None
        self.ended: Ended | None = None

    def line(self, line: str) -> Piece | None:
        """The piece of text in a line, if there is one.

        Raises:
            Malformed: it is none of this API.
        """
        if not line.startswith("data:"):
            return None  # a comment, an empty line, or the name of an event
        data = line[5:].strip()
        if data == "[DONE]":
            if self._reason is None:
                raise Malformed("the stream ended without a reason")
            self.ended = Ended(_reason(self._reason), _spent(self._usage))
            return None
        said = _decode(data.encode(), _Chunk)
        self._usage = said.usage or self._usage
        if not said.choices:
            return None
        choice = _only(said.choices)
        self._reason = choice.finish_reason or self._reason
        text = choice.delta.content if choice.delta is not None else choice.text
        return Piece(text) if text else None


class _Said(Struct, frozen=True):
    content: str | None = None


class _Choice(Struct, frozen=True):
    message: _Said | None = None
    delta: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Whole(Struct, frozen=True):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Chunk(Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None


def _decode(raw: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("the answer is not JSON of this API") from error  # what it is may hold texts


def _only(choices: list[_Choice]) -> _Choice:
    if not choices:
        raise Malformed("the answer has no choices")
    return choices[0]


def _reason(word: str | None) -> FinishReason:
    return "length" if word == "length" else "stop"


def _spent(usage: _Usage | None) -> Spent | None:
    if usage is None or min(usage.prompt_tokens, usage.completion_tokens) < 0:
        return None
    return Spent(usage.prompt_tokens, usage.completion_tokens)
