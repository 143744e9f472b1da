"""Answers: what a node sends back to a client."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from contract.errors import Refused

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]


class Accepted(Struct, frozen=True, kw_only=True):
    """The first message on a delta topic: the request is in the node's journal."""

    id: str
    seq: Literal[0] = 0
    node: str
    queue: Annotated[int, Meta(ge=0, description="Requests waiting before this one.")]
    model: Annotated[str, Meta(description="`name@version` that will answer.")]


class Delta(Struct, frozen=True, kw_only=True):
    """A piece of text. Pieces with seq 1, 2, 3 … joined are the final's text."""

    id: str
    seq: Annotated[int, Meta(ge=1)]
    text: str
    n: Annotated[int, Meta(ge=0, description="Tokens in this piece.")]


class Usage(Struct, frozen=True):
    """Token counts, as in OpenAI's API, with the prompt tokens that came from the prefix cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Timings(Struct, frozen=True):
    """Milliseconds since the request arrived at the node; `first_token_ms` is null when there was none."""

    queued_ms: float
    first_token_ms: float | None
    total_ms: float


class Energy(Struct, frozen=True):
    """Energy that the answer took, and the meter it was read from."""

    joules: float
    source: str


class Failure(Struct, frozen=True, omit_defaults=True):
    """Why there is no answer."""

    code: str
    message: str
    retry_after_ms: int | None = None


class Final(Struct, frozen=True, kw_only=True):
    """The whole answer, or the error. An answer that failed half-way carries `error` and the text it had."""

    id: str
    status: int
    text: str | UnsetType = UNSET
    embeddings: (
        Annotated[list[list[float]], Meta(description="A vector of length 1 for each text of `input`, in its order.")]
        | UnsetType
    ) = UNSET
    finish_reason: FinishReason | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    model: str | UnsetType = UNSET
    adapter: str | UnsetType | None = UNSET
    node: str | UnsetType = UNSET
    served_by: str | UnsetType = UNSET
    why: str | UnsetType = UNSET
    confidence: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    energy: Energy | UnsetType | None = UNSET
    last_seq: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


def failure_of(refused: Refused) -> Failure:
    """The `error` field for a refusal."""
    return Failure(refused.code, refused.message, refused.retry_after_ms)


def plain_error(status: int, failure: Failure) -> str:
    """What a plain-text client gets in place of an answer."""
    return f"error {status}: {failure.message}"
