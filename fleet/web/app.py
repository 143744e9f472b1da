"""The HTTP application: health, what devices need, and the API for operators and applications."""

from collections.abc import Callable, Iterable

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fleet import __version__
from fleet.api.forms import Reason
from fleet.web.endpoint import Authenticate, Endpoint, make_routes
from fleet.web.openapi import document
from fleet.web.problem import refusal

OPENAPI_PATH = "/v1/openapi.json"


def make_app(
    endpoints: Iterable[Endpoint],
    authenticate: Authenticate,
    device_routes: Iterable[BaseRoute],
    health: Callable[[], dict[str, bool]],
) -> Starlette:
    """The application. `health` says of each part whether it works; it may block."""
    endpoints = list(endpoints)
    openapi = msgspec.json.encode(document(endpoints, __version__))

    async def show_health(_request: Request) -> Response:
        parts = await run_in_threadpool(health)
        healthy = all(parts.values())
        return _json(msgspec.json.encode({"healthy": healthy, **parts}), 200 if healthy else 503)

    async def show_openapi(_request: Request) -> Response:
        return _json(openapi, 200)

    app = Starlette(
        routes=[
            Route("/healthz", show_health),
            Route(OPENAPI_PATH, show_openapi),
            *device_routes,
            *make_routes(endpoints, authenticate),
        ],
        exception_handlers={HTTPException: _not_here, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return app


def _json(text: bytes, status: int) -> Response:
    return Response(text, status, media_type="application/json")


async def _not_here(_request: Request, error: Exception) -> Response:
    """Called by Starlette for a path or method that does not exist."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        return refusal(
            405, Reason("method_not_allowed", "cannot do this here: `Allow` names the methods"), error.headers
        )
    return refusal(404, Reason("not_found", f"cannot find this path: {OPENAPI_PATH} lists all"))


async def _broken(_request: Request, _error: Exception) -> Response:
    """Called by Starlette for a fault of ours, which then stands in the log."""
    return refusal(500, Reason("internal", "cannot do this: a fault of the controller; its log says where"))
