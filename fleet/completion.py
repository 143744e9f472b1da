"""OpenAI's chat completions and our requests: from one to the other and back. Pure.

`model` says whom to ask: `node:kitchen-1` or `pool:cellar`, and behind a slash which model of theirs. All other fields
of a request (docs/schemas/request.json) pass through as they are.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from contract.answers import Energy, Final, FinishReason, Timings
from contract.deadlines import deadline_ms
from contract.errors import Refused
from contract.ids import END, ID_PATTERN
from contract.limits import DEFAULT_TTL_MS, MAX_MESSAGES, MAX_TOKENS
from contract.requests import REFERENCE_PATTERN, Message, Request, decode_request
from contract.status import Status
from contract.topics import NodeRequest, PoolRequest
from fleet.question import encode_request
from fleet.rights import GATEWAY

# Longer ones go over MQTT, where nobody has to hold a connection open.
MAX_WAIT_MS = 600_000
_ID = ID_PATTERN.removeprefix("^").removesuffix(END)
_REFERENCE = REFERENCE_PATTERN.removeprefix("^").removesuffix(END)
MODEL_PATTERN = rf"^(node|pool):{_ID}(/{_REFERENCE})?{END}"


class StreamOptions(Struct, frozen=True):
    """OpenAI's."""

    include_usage: bool = False


class ChatRequest(Request, frozen=True, kw_only=True):
    """A chat completion that is asked for. What OpenAI's API has and we cannot do may only be off."""

    model: Annotated[
        str,
        Meta(
            pattern=MODEL_PATTERN,
            max_length=200,
            description="`node:NAME` or `pool:NAME`, and `/MODEL` or `/MODEL@VERSION` behind it.",
        ),
    ]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    # Of what is longer, `read` says where it would do.
    ttl_ms: Annotated[int, Meta(ge=1, extra_json_schema={"maximum": MAX_WAIT_MS})] | None = None
    stream_options: StreamOptions | None = None
    id: None = None
    prompt: None = None
    input: None = None
    reply_to: None = None
    handed: None = None
    task: Literal["generate"] = "generate"
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Meta(max_length=0)] | None = None
    functions: Annotated[list[Any], Meta(max_length=0)] | None = None


class Asked(Struct, frozen=True):
    """A request and whom it goes to. `model` is as it was asked for."""

    to: NodeRequest | PoolRequest
    request: Request
    model: str
    stream: bool
    include_usage: bool
    created_s: int


def read(chat: ChatRequest, request_id: str, now_ms: int) -> Asked:
    """What to ask and whom.

    Raises:
        Refused: a field is not what the contract accepts, or the deadline has passed.
    """
    kind, _, rest = chat.model.partition(":")
    name, _, model = rest.partition("/")
    ttl_ms = deadline_ms(now_ms, exp=chat.exp, ttl_ms=chat.ttl_ms, default_ttl_ms=DEFAULT_TTL_MS) - now_ms
    if ttl_ms <= 0:
        raise Refused(Status.DEADLINE, "exp", "cannot answer: the deadline in exp has passed")
    if ttl_ms > MAX_WAIT_MS:
        limit = f"at most {MAX_WAIT_MS} are waited for over HTTP; ask over MQTT for longer"
        raise Refused(Status.INVALID, "ttl_ms", f"cannot wait for {ttl_ms} ms: {limit}")
    fields = {field.name: getattr(chat, field.name) for field in msgspec.structs.fields(Request)}
    fields |= {"id": request_id, "model": model or None, "exp": None, "ttl_ms": ttl_ms}
    if chat.max_tokens is None:
        fields["max_tokens"] = chat.max_completion_tokens
    request = decode_request(encode_request(Request(**fields)))
    to = NodeRequest(name, GATEWAY) if kind == "node" else PoolRequest(name, GATEWAY)
    include_usage = chat.stream_options is not None and chat.stream_options.include_usage
    return Asked(to, request, chat.model, chat.stream, include_usage, now_ms // 1000)


class CachedTokens(Struct, frozen=True):
    """Of the prompt, what was computed before."""

    cached_tokens: int


class TokenCounts(Struct, frozen=True):
    """OpenAI's usage."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Said(Struct, frozen=True):
    """The answer's text."""

    content: str
    role: Literal["assistant"] = "assistant"


class Choice(Struct, frozen=True):
    """The one answer."""

    message: Said
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class Answered(Struct, frozen=True):
    """What is not OpenAI's: who answered with what, how sure it is, what it took. As in a final."""

    node: str | UnsetType
    model: str | UnsetType
    adapter: str | UnsetType | None
    served_by: str | UnsetType
    confidence: float | UnsetType
    timings: Timings | UnsetType
    energy: Energy | UnsetType | None


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: TokenCounts
    shoal: Answered


class DeltaSaid(Struct, frozen=True, omit_defaults=True):
    """A piece of the text; the first one only says who speaks."""

    content: str | None = None
    role: Literal["assistant"] | None = None


class ChunkChoice(Struct, frozen=True):
    """A piece of the one answer."""

    delta: DeltaSaid
    finish_reason: FinishReason | None = None
    index: int = 0


class ChatChunk(Struct, frozen=True, kw_only=True):
    """A piece of a streamed chat completion. The last one, without choices, has the usage when it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenCounts | UnsetType = UNSET
    shoal: Answered | UnsetType = UNSET


def completion(asked: Asked, final: Final) -> ChatCompletion:
    """The completion for a final that is an answer."""
    return ChatCompletion(
        id=_id(asked),
        created=asked.created_s,
        model=asked.model,
        choices=[Choice(Said(final.text or ""), _reason(final))],
        usage=usage(final),
        shoal=_answered(final),
    )


def opening(asked: Asked) -> ChatChunk:
    """The first piece."""
    return _chunk(asked, [ChunkChoice(DeltaSaid("", "assistant"))])


def piece(asked: Asked, text: str) -> ChatChunk:
    """A piece of text."""
    return _chunk(asked, [ChunkChoice(DeltaSaid(text))])


def ending(asked: Asked, final: Final) -> list[ChatChunk]:
    """The last pieces."""
    last = [_chunk(asked, [ChunkChoice(DeltaSaid(), _reason(final))], shoal=_answered(final))]
    return [*last, _chunk(asked, [], usage=usage(final))] if asked.include_usage else last


def usage(final: Final) -> TokenCounts:
    """The token counts of a final; 0 for one that has none."""
    used = final.usage
    if isinstance(used, UnsetType):
        return TokenCounts(0, 0, 0, CachedTokens(0))
    total = used.prompt_tokens + used.completion_tokens
    return TokenCounts(used.prompt_tokens, used.completion_tokens, total, CachedTokens(used.cached_tokens))


def error_type(status: int) -> str:
    """OpenAI's word for a kind of error."""
    of_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return of_status.get(status, "server_error" if status in (408, 499) or status >= 500 else "invalid_request_error")


def _chunk(asked: Asked, choices: list[ChunkChoice], **more: Any) -> ChatChunk:
    return ChatChunk(id=_id(asked), created=asked.created_s, model=asked.model, choices=choices, **more)


def _answered(final: Final) -> Answered:
    return Answered(
        final.node, final.model, final.adapter, final.served_by, final.confidence, final.timings, final.energy
    )


def _id(asked: Asked) -> str:
    return f"chatcmpl-{asked.request.id}"


def _reason(final: Final) -> FinishReason:
    return "stop" if isinstance(final.finish_reason, UnsetType) else final.finish_reason
