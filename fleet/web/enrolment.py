"""What devices send: enrolment and renewal. Refusals are one line in the log and one JSON document."""

from collections.abc import Callable

import msgspec
import structlog
from cryptography import x509
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from contract.enrolment import (
    CA_PATH,
    ENROL_PATH,
    MAX_ENROL_BYTES,
    RENEW_PATH,
    Enrol,
    Issued,
    Problem,
    Reason,
    token_id,
)
from contract.ids import is_id
from fleet.enrolment import Enrolment
from fleet.errors import EnrolmentError
from fleet.web.connection import PEER

log = structlog.get_logger()


def make_routes(enrolment: Enrolment, root_pem: str) -> list[Route]:
    """The root certificate, enrolment and renewal; nobody needs a token of an operator for these."""

    async def show_root(_request: Request) -> Response:
        return PlainTextResponse(root_pem, media_type="application/x-pem-file")

    async def enrol(request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await _body(request), type=Enrol)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _refuse(request, "", EnrolmentError("invalid", 'cannot read this: send {"token": …, "csr": …}'))
        name = token_id(asked.token)
        return await _answer(request, name if is_id(name) else "", lambda: enrolment.enrol(asked.token, asked.csr))

    async def renew(request: Request) -> Response:
        peer: bytes | None = request.scope["state"].get(PEER)
        if peer is None:
            problem = EnrolmentError("no_certificate", "cannot renew: show the certificate that you have, in TLS")
            return _refuse(request, "", problem)
        certificate = x509.load_der_x509_certificate(peer)  # TLS has read it before
        return await _answer(request, "", lambda: enrolment.renew(certificate))

    return [
        Route(CA_PATH, show_root),
        Route(ENROL_PATH, enrol, methods=["POST"]),
        Route(RENEW_PATH, renew, methods=["POST"]),
    ]


async def _answer(request: Request, name: str, work: Callable[[], Issued]) -> Response:
    try:
        return _json(await run_in_threadpool(work), 200)
    except EnrolmentError as refused:
        return _refuse(request, name, refused)


def _refuse(request: Request, name: str, refused: EnrolmentError) -> Response:
    sender = request.client.host if request.client else ""
    log.warning("refused", path=request.url.path, code=refused.code, id=name, sender=sender)
    return _json(Problem(Reason(refused.code, str(refused))), 403)


async def _body(request: Request) -> bytes:
    """The body; what is longer than any that is accepted is cut, and then cannot be read."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_ENROL_BYTES:
            break
    return body[:MAX_ENROL_BYTES]


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
