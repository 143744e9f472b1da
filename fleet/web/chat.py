"""OpenAI's chat completions over HTTP: a request goes to a node or a pool over MQTT, and its answer comes back."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Literal, TypeVar

import msgspec
import structlog
from msgspec import Struct, UnsetType
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from contract.answers import Accepted, Delta, Final
from contract.errors import Refused
from contract.ids import new_request_id
from contract.limits import MAX_PAYLOAD_BYTES
from contract.status import MEANINGS, Status
from contract.topics import NodeRequest
from fleet import completion
from fleet.api.forms import Reason, Refusal
from fleet.completion import Asked, ChatCompletion, ChatRequest
from fleet.errors import FleetError
from fleet.gateway import Full, Gateway
from fleet.logs import describe
from fleet.quota import OverQuota, QuotaBook
from fleet.roles import CLIENT
from fleet.targets import Target, Targets
from fleet.transcript import Transcript
from fleet.web import problem
from fleet.web.endpoint import Call, Endpoint
from fleet.web.problem import Problem, problem_of, refusal

log = structlog.get_logger()

T = TypeVar("T")
Heard = Accepted | Delta | Final
Answers = AsyncGenerator[Heard, None]

# What a node may say, where HTTP has the same number; the others are common to all endpoints.
STATUSES = {
    408: "the deadline passed",
    500: "the engine failed twice",
    502: "no answer from a cloud",
    507: "no memory or disk",
}


class Model(Struct, frozen=True):
    """Something that can be asked: `node:NAME` or `pool:NAME`."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "shoal"


class Models(Struct, frozen=True):
    """All that can be asked now."""

    data: list[Model]
    object: Literal["list"] = "list"


class Chat:
    """Answers chat completions."""

    def __init__(
        self,
        gateway: Gateway,
        quotas: QuotaBook,
        targets: Targets,
        now_ms: Callable[[], int],
    ) -> None:
        self._gateway = gateway
        self._quotas = quotas
        self._targets = targets
        self._now_ms = now_ms

    def endpoints(self) -> list[Endpoint]:
        """What OpenAI's clients use."""
        return [
            Endpoint(
                method="POST", path="/v1/chat/completions", summary="Ask a node or a pool, as with OpenAI's API",
                least="operator", clients=True, work=self.complete, body=ChatRequest, answer=ChatCompletion,
                max_bytes=MAX_PAYLOAD_BYTES, statuses=STATUSES, refuse=refuse,
            ),
            Endpoint(
                method="GET", path="/v1/models", summary="Whom one can ask now", least="viewer", clients=True,
                work=self.models, answer=Models, refuse=refuse,
            ),
        ]  # fmt: skip

    def models(self, _call: Call) -> Models:
        """Nodes and pools that can be asked now."""
        return Models([Model(f"{kind}:{name}") for kind, name in self._targets.here()])

    async def complete(self, call: Call) -> Response:
        """Asks, and gives the answer as a whole or in pieces."""
        try:
            asked = completion.read(call.body, new_request_id(), self._now_ms())
        except Refused as refused:
            raise Problem(refused.status, "invalid", refused.message, param=refused.code) from None
        await self._find(asked)
        if call.caller.role == CLIENT:
            try:
                await run_in_threadpool(self._quotas.admit, call.caller.name)
            except OverQuota as over:
                raise _later("quota", f"cannot ask: the quota is {over.what}", over.retry_after_ms) from None
        answers = self._answers(asked, call.caller.name if call.caller.role == CLIENT else None)
        if asked.stream:
            return await _stream(call, asked, answers)
        async with aclosing(answers):
            final = await _unless_gone(call, _last(answers))
        if final.status != Status.OK:
            raise _failed(final)
        return _json(completion.completion(asked, final))

    async def _find(self, asked: Asked) -> None:
        """Makes sure that there is somebody to ask: who is not there would let everybody wait for the deadline."""
        to = asked.to
        target: Target = ("node", to.node) if isinstance(to, NodeRequest) else ("pool", to.pool)
        is_here = await run_in_threadpool(self._targets.is_here, target)
        if is_here is None:
            what = f"cannot find {target[0]} {target[1]!r}: `GET /v1/models` lists whom one can ask"
            raise Problem(404, "model_not_found", what, param="model")
        if not is_here:
            raise Problem(503, "not_here", f"cannot ask {target[0]} {target[1]!r}: it is not connected now")

    async def _answers(self, asked: Asked, client: str | None) -> Answers:
        """What comes back. The tokens are counted for `client`, those that were heard when the answer is left."""
        num_tokens = 0
        try:
            async with aclosing(self._gateway.ask(asked.to, asked.request)) as said:
                async for answer in said:
                    match answer.message:
                        case Delta() as delta:
                            num_tokens += delta.n
                        case Final() as final:
                            num_tokens = completion.usage(final).total_tokens
                    yield answer.message
        except Full as full:
            raise _later("busy", str(full), 1000) from None
        finally:
            if client is not None and num_tokens:
                await asyncio.shield(run_in_threadpool(self._quotas.spend, client, num_tokens))


async def _last(answers: Answers) -> Final:
    async for said in answers:
        if isinstance(said, Final):
            return said
    raise AssertionError("an exchange ends with a final or an error")


async def _stream(call: Call, asked: Asked, answers: Answers) -> Response:
    """The pieces as server-sent events. What fails before the first of them still has a status of its own."""
    try:
        first = await _unless_gone(call, anext(answers))
        if isinstance(first, Final) and first.status != Status.OK:
            raise _failed(first)
    except BaseException:
        await answers.aclose()
        raise
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_events(asked, first, answers), media_type="text/event-stream", headers=headers)


async def _events(asked: Asked, first: Heard, answers: Answers) -> AsyncIterator[bytes]:
    transcript = Transcript()
    async with aclosing(answers):
        yield _event(completion.opening(asked))
        try:
            for event in _pieces(asked, transcript, first):
                yield event
            async for said in answers:
                for event in _pieces(asked, transcript, said):
                    yield event
        except (FleetError, Problem) as error:
            refused = problem_of(error)
            # Not the code: a node chose it, and may have taken it from the prompt.
            log.warning("answer broken off", status=refused.status, id=asked.request.id, **describe(error))
            yield _event(_reasoned(refused))
    yield b"data: [DONE]\n\n"


def _pieces(asked: Asked, transcript: Transcript, said: Heard) -> Iterator[bytes]:
    """The events for something that the node said.

    Raises:
        Problem: the answer ends with an error, or is another one than what was sent so far.
    """
    if isinstance(said, Delta) and (text := transcript.add(said)):
        yield _event(completion.piece(asked, text))
    if isinstance(said, Final):
        if said.status != Status.OK:
            raise _failed(said)
        fits, rest = transcript.finish(said.text or "")
        if not fits:
            raise Problem(
                500, "answered_again", "cannot go on: the engine failed and answered in other words; ask again"
            )
        if rest:
            yield _event(completion.piece(asked, rest))
        yield from map(_event, completion.ending(asked, said))


async def _unless_gone(call: Call, work: Awaitable[T]) -> T:
    """What comes of `work`, which is left when the sender leaves."""
    gone, working = asyncio.ensure_future(call.gone()), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem(400, "gone", "cannot answer: the sender has left")
        return working.result()
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


def _failed(final: Final) -> Problem:
    """The refusal for a final that is no answer."""
    status = final.status if final.status in STATUSES or final.status in problem.STATUSES else 503
    failure = final.error
    if isinstance(failure, UnsetType):
        known = final.status in MEANINGS
        return Problem(status, "failed", MEANINGS[Status(final.status)] if known else f"status {final.status}")
    if failure.retry_after_ms is not None:
        return _later(failure.code, failure.message, failure.retry_after_ms, status)
    # Without the header, OpenAI's clients would ask again what took too long, or killed an engine.
    headers = {"X-Should-Retry": "false"} if status in (408, 500) else {}
    return Problem(status, failure.code, failure.message, headers=headers)


def _later(code: str, message: str, after_ms: int, status: int = 429) -> Problem:
    wait_s = math.ceil(after_ms / 1000)
    headers = {"Retry-After": str(wait_s), "Retry-After-Ms": str(after_ms)}
    return Problem(status, code, f"{message}; try again in {wait_s} s", headers=headers)


def refuse(refused: Problem) -> Response:
    """A refusal in OpenAI's shape, which is ours with a type."""
    return refusal(refused.status, _reasoned(refused).error, refused.headers)


def _reasoned(refused: Problem) -> Refusal:
    return Refusal(Reason(refused.code, refused.message, completion.error_type(refused.status), refused.param))


def _event(value: Struct) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _json(value: Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
