"""Requests that do not come from the broker: of commands on this machine, and the node's own."""

import asyncio
import time
import uuid
from collections.abc import Callable

from agent.answering import Answering
from agent.job import Job
from contract.answers import Delta, Final
from contract.requests import Request


class Asking:
    """Submits requests that are not journaled, because who asks waits for the answer."""

    def __init__(
        self,
        *,
        complete: Callable[[Request], Request],
        answering_for: Callable[[Request], Answering],
        default_ttl_ms: Callable[[], int],
    ) -> None:
        self._complete = complete
        self._answering_for = answering_for
        self._default_ttl_ms = default_ttl_ms

    def ask(self, request: Request, on_delta: Callable[[Delta], None], on_final: Callable[[Final], None]) -> None:
        """Submits a request to whoever answers it.

        Raises:
            Refused: it cannot be taken.
        """
        request = self._complete(request)
        self._submit(request, self._answering_for(request), "local", on_delta, on_final)

    async def answer(self, request: Request, answering: Answering, client: str) -> Final:
        """The answer of one model to a request.

        Raises:
            Refused: it cannot be taken.
        """
        answer: asyncio.Future[Final] = asyncio.get_running_loop().create_future()

        def end(final: Final) -> None:
            if not answer.done():
                answer.set_result(final)

        self._submit(request, answering, client, lambda _: None, end)
        return await answer

    def _submit(
        self,
        request: Request,
        answering: Answering,
        client: str,
        on_delta: Callable[[Delta], None],
        on_final: Callable[[Final], None],
    ) -> None:
        answering.check_admission(client)

        async def end(final: Final) -> None:
            on_final(final)

        now = time.monotonic()
        answering.submit(
            Job(
                client=client,
                id=request.id or uuid.uuid4().hex,
                request=request,
                arrived=now,
                deadline=now + (request.ttl_ms or self._default_ttl_ms()) / 1000,
                on_delta=on_delta,
                on_final=end,
            )
        )
