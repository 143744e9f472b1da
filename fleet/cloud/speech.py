"""A provider's answer in the contract's messages: deltas when they were asked for, and always one final."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from msgspec import UNSET

from contract.answers import Delta, Failure, Final, Timings, Usage, failure_of
from contract.deadlines import deadline_ms
from contract.errors import Refused
from contract.requests import Request, decode_request
from contract.status import Status
from fleet.cloud.ledger import Asker
from fleet.cloud.lender import Answered, Lender
from fleet.logs import describe

log = structlog.get_logger()


def read_handed(payload: bytes) -> Request:
    """A request that a node handed on.

    Raises:
        Refused: it is none.
    """
    question = decode_request(payload)
    if question.handed is None or question.id is None:
        raise Refused(
            Status.INVALID, "handed", "cannot lend the cloud: `id` and `handed` are needed, which nodes set",
            request_id=question.id,
        )  # fmt: skip
    return question


async def speak(lender: Lender, asker: Asker, request: Request, now_ms: int) -> AsyncGenerator[Delta | Final, None]:
    """What a node hears of a request that it handed on. Never raises; a failure is a final, with the text so far."""
    begun, first = time.monotonic(), None
    request_id, parts, end = request.id or "", list[str](), None
    status, failure = Status.OK, None
    try:
        left_s = (deadline_ms(now_ms, exp=request.exp, ttl_ms=request.ttl_ms) - now_ms) / 1000
        async with aclosing(lender.answer(asker, request, left_s)) as saying:
            async for said in saying:
                if isinstance(said, Answered):
                    end = said
                    continue
                first = first or time.monotonic()
                parts.append(said.text)
                if request.stream:
                    yield Delta(id=request_id, seq=len(parts), text=said.text, n=0)
    except Refused as no:
        status, failure = no.status, failure_of(no)
    except Exception as error:  # noqa: BLE001  # a node waits for this; what it was is in the log
        log.error("cannot lend the cloud", **describe(error))
        status, failure = Status.CLOUD_FAILED, Failure("internal", "cannot answer: the controller has a fault")
    now = time.monotonic()
    spent = end.spent if end else None
    yield Final(
        id=request_id,
        status=status,
        text="".join(parts) if end or parts else UNSET,
        finish_reason=end.finish_reason if end else UNSET,
        error=failure or UNSET,
        usage=Usage(spent.prompt_tokens, 0, spent.completion_tokens) if spent else UNSET,
        model=end.model if end else UNSET,
        served_by=f"cloud:{end.provider}" if end else UNSET,
        why=request.handed.why if request.handed else UNSET,
        timings=Timings(
            queued_ms=0.0,
            first_token_ms=None if first is None else round((first - begun) * 1000, 3),
            total_ms=round((now - begun) * 1000, 3),
        ),
        last_seq=len(parts) if request.stream else 0,
    )
