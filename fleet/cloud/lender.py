"""Asks providers for nodes: in order, within budgets and rates, around those that fail, and everything is written down.

A provider that is busy or fails is asked again after a pause with jitter, then the next one is asked; as soon as a part
of an answer has gone out no other provider continues it. What fails does so with one of the contract's refusals.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec
import structlog
from msgspec import Struct

from contract import quota
from contract.answers import FinishReason
from contract.errors import Refused
from contract.requests import Request
from contract.status import Status
from fleet.cloud import breaker as rules
from fleet.cloud.breaker import Breaker
from fleet.cloud.ledger import Asker, Ledger, OverBudget, Reservation
from fleet.cloud.question import Ended, Piece, Spent, body_of, most_tokens, num_completion
from fleet.cloud.upstream import Upstream, UpstreamError

log = structlog.get_logger()

MAX_ATTEMPTS = 3
PAUSE_S = 0.5


class Answered(Struct, frozen=True):
    """The end of an answer, and whose it is."""

    provider: str
    model: str
    finish_reason: FinishReason
    spent: Spent | None


class Lender:
    """For one event loop."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        ledger: Ledger,
        *,
        requests_per_minute: int,
        pause_s: float = PAUSE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`requests_per_minute`: of each node. `pause_s`: about so long until a provider is asked again, then twice."""
        self._pause_s = pause_s
        self._upstreams = upstreams
        self._ledger = ledger
        self._requests_per_minute = requests_per_minute
        self._now_s = now_s
        self._breakers = {upstream.settings.name: Breaker() for upstream in upstreams}
        self._buckets: dict[str, quota.Bucket] = {}

    async def answer(self, asker: Asker, request: Request, left_s: float) -> AsyncGenerator[Piece | Answered, None]:
        """The answer in pieces, then its end.

        Raises:
            Refused: 400, 403, 408, 429 or 502.
        """
        self._check(asker, request)
        ends_s = self._now_s() + left_s
        why = "no provider is set up"
        for upstream in self._upstreams:
            for attempt in range(MAX_ATTEMPTS):
                begun = False
                try:
                    async with aclosing(self._ask(upstream, asker, request, ends_s)) as saying:
                        async for said in saying:
                            begun = True
                            yield said
                    return
                except UpstreamError as error:
                    why = f"{upstream.settings.name}: {error.why}"
                    if begun:
                        raise _failed(f"{why}, in the middle of its answer") from error
                    pause_s = self._pause_s * 2**attempt * random.uniform(0.5, 1.5)
                    if error.fault in ("refused", "question") or self._now_s() + pause_s >= ends_s:
                        break
                is_left_alone = not rules.may_ask(self._breakers[upstream.settings.name], self._now_s())
                if is_left_alone or attempt + 1 == MAX_ATTEMPTS:
                    break
                await asyncio.sleep(pause_s)
        if self._now_s() >= ends_s:
            raise Refused(Status.DEADLINE, "deadline", f"cannot answer in time: the last provider said {why}")
        raise _failed(why)

    def _check(self, asker: Asker, request: Request) -> None:
        if request.privacy not in ("redact", "any"):
            # The node enforces it; a prompt that came here all the same goes no further.
            what = f"cannot hand the request to a cloud: its privacy is {request.privacy or 'local'!r}"
            raise Refused(Status.FORBIDDEN, "privacy", what)
        if request.task != "generate":
            raise Refused(Status.INVALID, "task", f"cannot run task {request.task!r} in a cloud: it generates text")
        bucket, wait_ms = quota.take(
            self._buckets.get(asker.node), self._requests_per_minute, int(self._now_s() * 1000)
        )
        self._buckets[asker.node] = bucket
        if wait_ms:
            limit = f"{self._requests_per_minute} requests a minute is what node {asker.node} may ask clouds for"
            raise Refused(Status.BUSY, "rate", f"cannot ask a cloud: {limit}", retry_after_ms=wait_ms)

    async def _ask(
        self, upstream: Upstream, asker: Asker, request: Request, ends_s: float
    ) -> AsyncGenerator[Piece | Answered, None]:
        """One attempt at one provider."""
        name, is_probe = upstream.settings.name, False
        try:
            async with asyncio.timeout(ends_s - self._now_s()):
                await upstream.places.acquire()
        except TimeoutError:
            raise UpstreamError("busy", "all its places were taken") from None
        try:
            # Only now: many may have failed while this one waited.
            if not rules.may_ask(self._breakers[name], self._now_s()):
                raise UpstreamError("busy", "it failed and is left alone for a while")
            is_probe = bool(self._breakers[name].open_until_s)
            self._breakers[name] = rules.asking(self._breakers[name])
            reserved = await self._reserve(upstream, asker, request)
            async with aclosing(self._exchange(upstream, request, reserved, ends_s, is_probe)) as saying:
                async for said in saying:
                    yield said
        finally:
            if is_probe:  # by now it has been judged, or cannot be
                self._breakers[name] = rules.left(self._breakers[name])
            upstream.places.release()

    async def _reserve(self, upstream: Upstream, asker: Asker, request: Request) -> Reservation:
        settings = upstream.settings
        prompt, completion = most_tokens(request), num_completion(request, settings)
        body = body_of(request, settings, stream=request.stream)
        leaving = {
            "request": request.id or "", "why": request.handed.why if request.handed else "",
            "privacy": request.privacy, "provider": settings.name, "model": settings.model,
            "bytes": len(msgspec.json.encode(body)), "sha256": request.texts_sha256,
        }  # fmt: skip
        cost_nano = settings.cost_nano(prompt, completion)
        try:
            return await asyncio.to_thread(self._ledger.reserve, asker, prompt + completion, cost_nano, leaving)
        except OverBudget as over:
            what = f"cannot ask a cloud: the budget of {over.spender} for today is used up"
            raise Refused(Status.BUSY, "budget", what, retry_after_ms=over.retry_after_ms) from over

    async def _exchange(
        self, upstream: Upstream, request: Request, reserved: Reservation, ends_s: float, is_probe: bool
    ) -> AsyncGenerator[Piece | Answered, None]:
        name, settings = upstream.settings.name, upstream.settings
        outcome, spent = "left", None  # what holds if who asked goes away
        try:
            async with aclosing(upstream.ask(request, ends_s - self._now_s())) as saying:
                async for said in saying:
                    if isinstance(said, Ended):
                        outcome, spent = "answered", said.spent
                        self._breakers[name] = rules.worked(self._breakers[name], is_probe=is_probe)
                        yield Answered(name, settings.model, said.finish_reason, said.spent)
                    else:
                        yield said
        except UpstreamError as error:
            outcome, spent = error.why[:64], None if error.may_cost else Spent(0, 0)
            if error.fault != "question":
                self._note_failure(name, error, is_probe=is_probe)
            raise
        finally:
            tokens = None if spent is None else (spent.prompt_tokens, spent.completion_tokens)
            nano = None if tokens is None else settings.cost_nano(*tokens)
            await asyncio.shield(asyncio.to_thread(self._ledger.settle, reserved, outcome, tokens, nano))

    def _note_failure(self, name: str, error: UpstreamError, *, is_probe: bool) -> None:
        before = self._breakers[name]
        after = rules.failed(
            before, self._now_s(), random.random(), is_probe=is_probe, retry_after_s=error.retry_after_s
        )
        self._breakers[name] = after
        if after.open_until_s and not before.open_until_s:
            log.warning("a provider is left alone", provider=name, why=error.why, failures=after.failures)


def _failed(why: str) -> Refused:
    return Refused(Status.CLOUD_FAILED, "cloud", f"cannot get an answer from a cloud: {why}", retry_after_ms=5_000)
