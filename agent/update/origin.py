"""A server that hands out files over HTTP, asked over connections that are kept.

What always holds, whatever the server sends:

- No more bytes are taken than were asked for, nothing compressed, no other range, nothing from another origin.
- An answer begins within `patience_s`, and goes on at `min_bytes_s` at least; waiting for `Pace` does not count.
- Memory does not grow with what is sent: a header has 16 KiB at most, and content is handed on in small pieces.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from agent.update.pace import Pace
from agent.update.reader import Busy, Gone, Unreachable, Untrue

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_REDIRECTS: Final = 3
READ_BYTES: Final = 64 * 1024
BUSY_MS: Final = 5_000  # when a server does not say how long
MAX_BUSY_MS: Final = 24 * 3600 * 1000

_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (429, 503)


class Origin:
    """Where one server has its files, and how to reach it."""

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext | None = None,
        *,
        certificate: bytes | None = None,
        pace: Pace | None = None,
        patience_s: float = 20.0,
        min_bytes_s: float = 1024.0,
    ) -> None:
        """`certificate`: the only one that the server may have, in DER form; its chain and name are then not looked at.

        Raises:
            ValueError: the URL is none of HTTP.
        """
        self.url = url if url.endswith("/") else f"{url}/"
        self._place = urlsplit(self.url)
        if self._place.scheme not in {"http", "https"} or not self._place.hostname:
            raise ValueError(f"cannot use {url!r} as a source: write it as in https://host/releases/")
        self._port = self._place.port or (443 if self._place.scheme == "https" else 80)
        self._context = context
        self._certificate = certificate
        self._pace = pace
        self._patience_s = patience_s
        self._min_bytes_s = min_bytes_s

    async def open(self) -> "Connection":
        """A new connection.

        Raises:
            Unreachable: nobody answers.
            Untrue: somebody else answers.
        """
        secure = self._place.scheme == "https"
        try:
            async with asyncio.timeout(self._patience_s):
                reader, writer = await asyncio.open_connection(
                    self._place.hostname,
                    self._port,
                    ssl=(self._context or True) if secure else None,
                    limit=2 * READ_BYTES,
                )
        except ssl.SSLCertVerificationError as error:
            raise Untrue(f"its certificate is not good: {error.verify_message}") from error
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"it cannot be reached: {_said(error)}") from error
        if self._certificate is not None:
            found = writer.get_extra_info("ssl_object")
            if found is None or found.getpeercert(binary_form=True) != self._certificate:
                writer.close()
                raise Untrue("it has another certificate than it should have")
        return Connection(self, reader, writer)

    def locate(self, path: str) -> SplitResult:
        """The address of a file."""
        return urlsplit(urljoin(self.url, path))

    def is_same(self, place: SplitResult) -> bool:
        """Whether an address is at this server."""
        return (place.scheme, place.netloc) == (self._place.scheme, self._place.netloc)

    @property
    def pace(self) -> Pace | None:
        """How quickly it may be read."""
        return self._pace

    def seconds_for(self, num_bytes: int) -> float:
        """How long an answer of so many bytes may take."""
        return self._patience_s + num_bytes / self._min_bytes_s


class Connection:
    """One connection to an origin, for one request at a time. It is of no use after an error."""

    def __init__(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._origin = origin
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof()

    def close(self) -> None:
        """Gives it up."""
        self._writer.close()

    async def whole(self, path: str, max_bytes: int) -> bytes:
        """A file.

        Raises:
            SourceError: it did not come.
        """
        content = bytearray()
        await self._get(path, {}, lambda answer: _check_whole(answer, max_bytes, exactly=False), content.extend)
        return bytes(content)

    async def part(self, path: str, start: int, end: int, total: int, take: Callable[[bytes], object]) -> None:
        """The bytes from `start` up to `end` of a file of `total` bytes. `take` gets them as they come.

        Raises:
            SourceError: they did not all come.
        """
        if (start, end) == (0, total):
            num_bytes = await self._get(path, {}, lambda answer: _check_whole(answer, total, exactly=True), take)
        else:
            wanted = {"range": f"bytes={start}-{end - 1}"}
            num_bytes = await self._get(path, wanted, lambda answer: _check_part(answer, start, end, total), take)
        if num_bytes != end - start:
            raise Untrue(f"it sends {num_bytes} bytes instead of {end - start}")

    async def _get(
        self,
        path: str,
        headers: dict[str, str],
        check: Callable[[h11.Response], int],
        take: Callable[[bytes], object],
    ) -> int:
        """`check` says how many bytes may come; returns how many came."""
        place = self._origin.locate(path)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                async with asyncio.timeout(self._origin.seconds_for(0)) as limit:
                    answer = await self._ask(place, headers)
                    if answer.status_code not in _REDIRECTS:
                        return await self._take(check(_checked(answer)), take, limit)
                    place = self._follow(place, answer)
                    await self._take(MAX_HEADER_BYTES, lambda _: None, limit)
            raise Untrue(f"it redirects more than {MAX_REDIRECTS} times")
        except (h11.ProtocolError, ValueError) as error:  # the latter: it redirects to what is no address
            raise Untrue(f"what it sends is not HTTP: {error}") from error
        except TimeoutError as error:
            raise Untrue("it is too slow") from error
        except OSError as error:
            raise Unreachable(f"the connection broke: {_said(error)}") from error
        finally:
            if self._http.our_state is not h11.IDLE:
                self.close()

    async def _ask(self, place: SplitResult, headers: dict[str, str]) -> h11.Response:
        target = place.path + (f"?{place.query}" if place.query else "")
        fields = {"host": place.netloc, "accept-encoding": "identity", "user-agent": "shoal-agent"} | headers
        request = h11.Request(method="GET", target=target, headers=list(fields.items()))
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self._writer.write(data)
        await self._writer.drain()
        while not isinstance(event := await self._next(), h11.Response):
            if isinstance(event, h11.ConnectionClosed):
                raise Unreachable("it hung up")
        return event

    def _follow(self, place: SplitResult, answer: h11.Response) -> SplitResult:
        location = urlsplit(urljoin(place.geturl(), _header(answer, b"location")))
        if not self._origin.is_same(location):
            raise Untrue(f"it redirects to {location.netloc or 'nowhere'}")
        return location

    async def _take(self, num_bytes: int, take: Callable[[bytes], object], limit: asyncio.Timeout) -> int:
        limit.reschedule(asyncio.get_running_loop().time() + self._origin.seconds_for(num_bytes))
        came = 0
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                came += len(event.data)
                if came > num_bytes:
                    raise Untrue(f"it sends more than {num_bytes} bytes")
                take(bytes(event.data))
                await self._keep_pace(len(event.data), limit)
        with contextlib.suppress(h11.LocalProtocolError):  # it wants to hang up now
            self._http.start_next_cycle()
        return came

    async def _keep_pace(self, num_bytes: int, limit: asyncio.Timeout) -> None:
        if self._origin.pace is not None:
            slept_s = await self._origin.pace.spend(num_bytes)
            limit.reschedule((limit.when() or 0.0) + slept_s)

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(READ_BYTES)
            if not data and self._http.their_state is h11.SEND_BODY:
                raise Unreachable("it hung up in the middle")
            self._http.receive_data(data)
        return event


def _checked(answer: h11.Response) -> h11.Response:
    """The answer, when it may have what was asked for."""
    status = answer.status_code
    if status in _BUSY:
        raise Busy(f"it is busy (status {status})", _after_ms(answer))
    if 400 <= status < 500:
        raise Gone(f"it answers with status {status}")
    if status >= 500:
        raise Unreachable(f"it answers with status {status}")
    encoding = _header(answer, b"content-encoding")
    if encoding not in {"", "identity"}:
        raise Untrue(f"it sends the encoding {encoding[:20]!r}, which nobody asked for")
    return answer


def _check_whole(answer: h11.Response, max_bytes: int, *, exactly: bool) -> int:
    if answer.status_code != 200:
        raise Untrue(f"it answers with status {answer.status_code} instead of 200")
    announced = _header(answer, b"content-length")
    if announced and (int(announced) > max_bytes or (exactly and int(announced) != max_bytes)):
        raise Untrue(f"it wants to send {announced} bytes; {'' if exactly else 'at most '}{max_bytes} were asked for")
    return max_bytes


def _check_part(answer: h11.Response, start: int, end: int, total: int) -> int:
    if answer.status_code != 206:
        raise Untrue(f"it answers with status {answer.status_code} instead of 206: it must be able to send ranges")
    found = _header(answer, b"content-range")
    if found != f"bytes {start}-{end - 1}/{total}":
        raise Untrue(f"it sends the range {found[:60]!r} instead of bytes {start}-{end - 1}/{total}")
    announced = _header(answer, b"content-length")
    if announced and int(announced) != end - start:
        raise Untrue(f"it wants to send {announced} bytes instead of {end - start}")
    return end - start


def _after_ms(answer: h11.Response) -> int:
    """What Retry-After says, in ms. A date counts from the server's own: this device may have no clock."""
    until, now = _header(answer, b"retry-after"), _header(answer, b"date")
    after_ms = BUSY_MS
    if re.fullmatch(r"[0-9]{1,9}", until):
        after_ms = int(until) * 1000
    elif until and now:
        with contextlib.suppress(ValueError, TypeError):
            after_ms = round((parsedate_to_datetime(until) - parsedate_to_datetime(now)).total_seconds() * 1000)
    return min(MAX_BUSY_MS, max(after_ms, 1000))


def _header(answer: h11.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for field, value in answer.headers if field == name), "")


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
