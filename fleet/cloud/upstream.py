"""One provider over HTTP: a question goes out, its answer comes in as it is made. Tells apart who is at fault."""

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator
from typing import Literal

import httpx

from contract.requests import Request
from fleet.cloud.question import Ended, Malformed, Piece, Reader, body_of, path_of, read_whole
from fleet.cloud.settings import UpstreamSettings

CONNECT_S = 5.0
MAX_ANSWER_BYTES = 2 * 1024 * 1024
MAX_RETRY_AFTER_S = 300.0

Fault = Literal["busy", "down", "refused", "question"]


class UpstreamError(Exception):
    """A provider gave no answer: it is busy, it fails, it refuses us (a key, a model), or it refuses the question.

    `may_cost`: it may have made tokens, which then have to be paid.
    """

    def __init__(self, fault: Fault, why: str, *, retry_after_s: float = 0.0, may_cost: bool = False) -> None:
        super().__init__(fault, why)
        self.fault, self.why, self.retry_after_s, self.may_cost = fault, why, retry_after_s, may_cost


class Upstream:
    """Asks a provider."""

    def __init__(self, settings: UpstreamSettings, key: str, client: httpx.AsyncClient) -> None:
        self.settings = settings
        self._client = client
        # What is packed could be larger than what is counted.
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.places = asyncio.Semaphore(settings.parallel)

    async def ask(self, request: Request, left_s: float) -> AsyncGenerator[Piece | Ended, None]:
        """The answer, ending with `Ended`.

        Raises:
            UpstreamError: there is none, or only a part of one came.
        """
        timeout = httpx.Timeout(min(self.settings.timeout_s, left_s), connect=min(CONNECT_S, left_s))
        url = self.settings.url.rstrip("/") + path_of(self.settings)
        body = body_of(request, self.settings, stream=request.stream)
        ended = False
        try:
            async with (
                asyncio.timeout(left_s),
                self._client.stream("POST", url, json=body, headers=self._headers, timeout=timeout) as response,
            ):
                if response.status_code != 200:
                    raise _error_of(response)
                async for said in _events(response) if request.stream else _whole(response):
                    ended |= isinstance(said, Ended)
                    yield said
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UpstreamError("down", type(error).__name__) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise UpstreamError("down", type(error).__name__, may_cost=True) from error
        except Malformed as error:
            raise UpstreamError("down", str(error), may_cost=True) from error
        if not ended:
            raise UpstreamError("down", "the answer was cut off", may_cost=True)


async def _whole(response: httpx.Response) -> AsyncGenerator[Piece | Ended, None]:
    body = b"".join([chunk async for chunk in _chunks(response)])
    for said in read_whole(body):
        yield said


async def _events(response: httpx.Response) -> AsyncGenerator[Piece | Ended, None]:
    reader, rest = Reader(), b""
    async for chunk in _chunks(response):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if (piece := reader.line(line.decode(errors="replace").rstrip("\r"))) is not None:
                yield piece
        if reader.ended is not None:
            yield reader.ended
            return


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body, as long as it has a size that an answer can have."""
    num_bytes = 0
    async for chunk in response.aiter_raw():
        num_bytes += len(chunk)
        if num_bytes > MAX_ANSWER_BYTES:
            raise Malformed(f"the answer has over {MAX_ANSWER_BYTES} bytes")
        yield chunk


def _error_of(response: httpx.Response) -> UpstreamError:
    """Its text may quote the prompt, so only the number is kept."""
    status = response.status_code
    why = f"status {status}"
    if status == 429:
        return UpstreamError("busy", why, retry_after_s=_retry_after_s(response))
    if status in (400, 413, 422):
        return UpstreamError("question", why)
    return UpstreamError(
        "refused" if status in (401, 402, 403, 404) else "down", why, retry_after_s=_retry_after_s(response)
    )


def _retry_after_s(response: httpx.Response) -> float:
    """What `Retry-After` says: seconds, or a date."""
    text = response.headers.get("retry-after", "").strip()
    try:
        wait_s = (
            float(text) if text[:1].isdigit() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        )
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, min(MAX_RETRY_AFTER_S, wait_s))
