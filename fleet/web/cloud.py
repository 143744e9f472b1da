"""The cloud over HTTPS: a node hands a request on and hears the answer, known by its certificate.

POST /v1/cloud    a request of the contract with `handed`, → a final; with `stream`, server-sent events: deltas, final
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from contract.answers import Delta, Final, failure_of
from contract.enrolment import CLOUD_PATH, Problem, Reason
from contract.errors import Refused
from contract.ids import new_request_id
from contract.limits import MAX_PAYLOAD_BYTES
from contract.status import Status
from fleet.certified import Certificates
from fleet.cloud.ledger import Asker
from fleet.cloud.lender import Lender
from fleet.cloud.speech import read_handed, speak
from fleet.errors import EnrolmentError
from fleet.web.connection import PEER

log = structlog.get_logger()


def make_routes(lender: Lender, certificates: Certificates, now_ms: Callable[[], int]) -> list[Route]:
    """The path for nodes."""

    async def lend(request: Request) -> Response:
        try:
            node = await run_in_threadpool(certificates.node, request.scope["state"].get(PEER))
        except EnrolmentError as no:
            log.warning("refused", path=CLOUD_PATH, code=no.code, sender=request.client.host if request.client else "")
            return Response(msgspec.json.encode(Problem(Reason(no.code, str(no)))), 403, media_type="application/json")
        try:
            question = read_handed(await _body(request))
        except Refused as no:
            final = Final(id=no.request_id or new_request_id(), status=no.status, error=failure_of(no))
            return _json(final)
        asker = Asker(node, question.handed.client if question.handed else "")
        if question.stream:
            return StreamingResponse(_events(speak(lender, asker, question, now_ms())), media_type="text/event-stream")
        async with aclosing(speak(lender, asker, question, now_ms())) as saying:
            async for said in saying:
                if isinstance(said, Final):
                    return _json(said)
        raise AssertionError("an answer ends with a final")

    return [Route(CLOUD_PATH, lend, methods=["POST"])]


async def _events(answer: AsyncGenerator[Delta | Final, None]) -> AsyncIterator[bytes]:
    async with aclosing(answer) as saying:
        async for said in saying:
            name = b"delta" if isinstance(said, Delta) else b"final"
            yield b"event: " + name + b"\ndata: " + msgspec.json.encode(said) + b"\n\n"


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_PAYLOAD_BYTES:
                break  # `decode_request` says what is wrong
    except ClientDisconnect:
        raise Refused(Status.INVALID, "payload", "cannot read the request: the connection ended before it") from None
    return bytes(body)


def _json(final: Final) -> Response:
    """The final; its status is that of HTTP too."""
    return Response(msgspec.json.encode(final), final.status, media_type="application/json")
