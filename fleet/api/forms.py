"""What all requests and answers over HTTP have in common."""

from msgspec import Struct


class Parameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters behind `?`; others inherit from this."""


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent; others inherit from this. A misspelt field is refused."""


class Nothing(Struct, frozen=True):
    """An answer that says only that it is done."""


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why not: a fixed word for programs and a sentence for people. `type` and `param` are OpenAI's."""

    code: str
    message: str
    type: str | None = None
    param: str | None = None


class Refusal(Struct, frozen=True):
    """What comes instead of an answer."""

    error: Reason
