"""Refusals over HTTP: a status, a fixed word for programs and a sentence for people, always in one shape."""

from collections.abc import Mapping

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from fleet.api.forms import Reason, Refusal
from fleet.errors import (
    AccessError,
    AnswerError,
    BrokerError,
    ConflictError,
    FleetError,
    FolderError,
    NoRoomError,
    NotFoundError,
    UsageError,
)

# What each status is for, in the document and in the page docs/http-api.md.
STATUSES = {
    400: "cannot be read: not JSON, another shape, an unknown parameter",
    401: "no token, or none that is good",
    403: "the role is too low",
    404: "no such thing",
    405: "no such method here",
    409: "what is there already stands against it",
    413: "the body is too long",
    415: "the body is not `application/json`",
    422: "can be read, and means nothing here: a query, a setting, a name",
    429: "too much at once; `Retry-After` says when to come again",
    503: "the database, the broker or a node is not there",
}


class Problem(Exception):
    """A request is refused. The message may be shown to its sender, and is not logged."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(status, code)
        self.status, self.code, self.message = status, code, message
        self.headers, self.param = dict(headers or {}), param

    def response(self) -> Response:
        """The HTTP response."""
        return refusal(self.status, Reason(self.code, self.message, param=self.param), self.headers)


def refusal(status: int, reason: Reason, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP response for a reason."""
    return Response(msgspec.json.encode(Refusal(reason)), status, dict(headers or {}), "application/json")


_OF_ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (UsageError, 422, "invalid"),
    (ConflictError, 409, "conflict"),
    (BrokerError, 503, "broker"),
    (AnswerError, 503, "no_answer"),
    (NoRoomError, 507, "no_room"),
    (FolderError, 503, "controller"),
    (FleetError, 503, "controller"),
)


def problem_of(error: Exception) -> Problem:
    """The refusal for an error of ours, or of the database.

    Raises:
        Exception: it is neither.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, AccessError):
        return Problem(401, "unauthorized", str(error), headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, SQLAlchemyError):  # its message may quote rows
        return Problem(503, "database", "cannot reach the database: its operator finds the reason in the log")
    for kind, status, code in _OF_ERRORS:
        if isinstance(error, kind):
            return Problem(status, code, str(error))
    raise error
