"""One entry of the HTTP API: who may use it, what it takes and what it gives.

Routes and the OpenAPI document are both made from these, so they cannot differ. What is checked, in this order: path
and method, token, role, the ids in the path, length, type and shape of the body, the parameters. Then the work is done,
in a thread when it may block.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from contract.ids import ID_RULE, is_id
from fleet.api.forms import Parameters
from fleet.errors import AccessError, FleetError
from fleet.logs import describe
from fleet.roles import Caller, Role, may
from fleet.web.connection import MORE_TIME
from fleet.web.problem import Problem, problem_of

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024
RAW_TYPE = "application/octet-stream"
MAX_WHOLE = 2**63  # no field takes a larger one, and written out as an integer it would be long

Authenticate = Callable[[str], Caller]
Method = Literal["GET", "POST", "PUT", "DELETE"]
RAW = object()  # a body of any bytes, which the work reads piece by piece


@dataclass(frozen=True)
class Call:
    """A request that passed all checks. `query` and `body` are of the types that the endpoint names."""

    caller: Caller
    path: dict[str, str]
    query: Any
    body: Any
    gone: Callable[[], Awaitable[None]]  # returns when the sender has left
    again: Callable[[], Caller]  # authenticates once more, for answers that take long; may block


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path. `work` gives a value of the type `answer`, or a whole response."""

    method: Method
    path: str
    summary: str
    least: Role
    work: Callable[[Call], Any] | Callable[[Call], Awaitable[Any]]
    answer: Any
    media_type: str = "application/json"
    query: type[Parameters] = Parameters
    body: Any = None
    max_bytes: int = MAX_BODY_BYTES
    clients: bool = False  # whether applications may, with their key
    statuses: dict[int, str] = field(default_factory=dict)  # what else it may say, and when
    refuse: Callable[[Problem], Response] = Problem.response

    async def serve(self, request: Request, authenticate: Authenticate) -> Response:
        """Answers a request."""
        try:
            call = await self._check(request, authenticate)
            answer = await self._work(call)
        except (FleetError, SQLAlchemyError, Problem) as error:
            return self.refuse(self._refused(request, error))
        if isinstance(answer, Response):
            return answer
        return Response(msgspec.json.encode(answer), 200, media_type=self.media_type)

    async def _work(self, call: Call) -> Any:
        if inspect.iscoroutinefunction(self.work):
            return await self.work(call)
        return await run_in_threadpool(self.work, call)

    async def _check(self, request: Request, authenticate: Authenticate) -> Call:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise AccessError("cannot let you in: send the header `Authorization: Bearer TOKEN`")
        again = partial(authenticate, token.strip())
        caller = await run_in_threadpool(again)
        if not may(caller, self.least, clients=self.clients):
            raise Problem(403, "forbidden", f"cannot let a {caller.role} do this: it needs the role {self.least}")
        path = dict(request.path_params)
        if not all(map(is_id, path.values())):
            raise Problem(404, "not_found", f"cannot find this: an id is {ID_RULE}")
        body = None if self.body is None else await self._body(request)

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return Call(caller, path, self._query(request), body, gone, again)

    def _query(self, request: Request) -> Any:
        pairs = request.query_params.multi_items()
        given = dict(pairs)
        if len(given) < len(pairs):
            raise Problem(400, "bad_parameter", "cannot take a parameter twice: give each once")
        try:
            return msgspec.convert(given, self.query, strict=False)
        except msgspec.ValidationError as error:
            raise Problem(400, "bad_parameter", f"cannot read the parameters: {_lower(error)}") from None

    async def _body(self, request: Request) -> Any:
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.body is RAW:
            if given != RAW_TYPE:
                raise Problem(415, "not_raw", f"cannot read this type of body: send the file as `{RAW_TYPE}`")
            return _pieces(request)
        if given != "application/json":
            raise Problem(415, "not_json", "cannot read this type of body: send JSON as `application/json`")
        raw = await _read(request, self.max_bytes)
        try:
            return msgspec.convert(_whole(msgspec.json.decode(raw)), self.body, str_keys=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, "bad_body", f"cannot read the body: {_lower(error)}") from None

    def _refused(self, request: Request, error: Exception) -> Problem:
        problem = problem_of(error)
        if problem.status in (401, 403, 503):
            sender = request.client.host if request.client else ""
            log.warning("refused", path=self.path, status=problem.status, sender=sender, **describe(error))
        return problem


async def _read(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > max_bytes:
            raise Problem(413, "too_large", f"cannot take a body of over {max_bytes} bytes: send less")
    return bytes(body)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """A body as it comes. The time that a request has begins again with each piece."""
    async for chunk in _chunks(request):
        request.scope["state"][MORE_TIME]()
        yield chunk


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise Problem(400, "bad_body", "cannot read the body: the connection ended before it") from None


def _whole(value: Any) -> Any:
    """A JSON value with 1 for 1.0: they are one number in JSON Schema, and some programs write only the latter."""
    match value:
        case dict():
            return {name: _whole(one) for name, one in value.items()}
        case list():
            return [_whole(one) for one in value]
        case float() if value.is_integer() and abs(value) <= MAX_WHOLE:
            return int(value)
    return value


def _lower(error: Exception) -> str:
    text = str(error) or "it is nested too deeply"
    return text[:1].lower() + text[1:]


def make_routes(endpoints: Iterable[Endpoint], authenticate: Authenticate) -> list[Route]:
    """One route for each path, so that a wrong method is told all the right ones."""
    of_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        of_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [_route(path, methods, authenticate) for path, methods in of_path.items()]


def _route(path: str, methods: dict[str, Endpoint], authenticate: Authenticate) -> Route:
    async def serve(request: Request) -> Response:
        return await methods[request.method].serve(request, authenticate)

    route = Route(path, serve, methods=list(methods))
    route.methods = set(methods)  # without HEAD, which Starlette adds: a stream of events has no end to skip to
    return route
