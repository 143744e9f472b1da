"""Hands segments of files on this node to neighbours, over HTTPS, to who has a certificate that they told of.

GET /have/{file}            a bit for each segment of the file, in the manifest's order: whether it is here
GET /objects/ab/abcdef…     a segment that is here, or a range of it

Nothing else is answered but with 404. Whoever asks checks what comes, so it is read as it lies on the disk.
"""

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import h11
import structlog

from agent.tls import NO_CHECK_TIME
from agent.update.held import Place, places_of
from agent.update.lot import Lot, flags_of
from agent.update.pace import Pace

log = structlog.get_logger()

MAX_CONNECTIONS: Final = 64
MAX_HEADER_BYTES: Final = 8 * 1024
IDLE_S: Final = 30.0
PIECE_BYTES: Final = 64 * 1024
PARTIAL_CHAIN: Final = ssl.VERIFY_X509_PARTIAL_CHAIN

_HAVE = re.compile(r"/have/([0-9a-f]{64})")
_OBJECT = re.compile(r"/objects/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_RANGE = re.compile(r"bytes=([0-9]{1,12})-([0-9]{1,12})")


class Lender:
    """The server. `lots` is asked for each request."""

    def __init__(self, lots: Callable[[], list[Lot]], bytes_per_s: float) -> None:
        self._lots = lots
        self._pace = Pace(bytes_per_s)
        self._server: asyncio.Server | None = None
        self._indexes: dict[str, dict[str, tuple[int, Place]]] = {}  # number and place of segments, by file and digest
        self._num_connections = 0

    async def open(self, host: str, port: int, pem_file: Path, certificates: Iterable[bytes]) -> int:
        """Begins, or begins anew with others who may ask. Returns the port.

        Raises:
            OSError: the port or the identity cannot be used.
        """
        self.close()
        self._indexes.clear()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem_file, password=lambda: "")
        context.verify_mode = ssl.CERT_REQUIRED
        # Exactly these certificates, whoever signed them; the clock of this device may be wrong.
        context.verify_flags |= PARTIAL_CHAIN | NO_CHECK_TIME
        for certificate in certificates:
            context.load_verify_locations(cadata=certificate)
        self._server = await asyncio.start_server(self._serve, host, port, ssl=context, limit=2 * MAX_HEADER_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Takes no more connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_connections += 1
        try:
            if self._num_connections <= MAX_CONNECTIONS:
                await self._talk(reader, writer)
        except (OSError, h11.ProtocolError, TimeoutError) as error:
            log.debug("a neighbour's connection ended", why=str(error))
        finally:
            self._num_connections -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        while http.our_state is h11.IDLE:
            request = None
            async with asyncio.timeout(IDLE_S):
                while not isinstance(event := http.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
                    if isinstance(event, h11.Request):
                        request = event
                    elif event is h11.NEED_DATA:
                        http.receive_data(await reader.read(MAX_HEADER_BYTES))
                    elif isinstance(event, h11.Data):
                        raise h11.RemoteProtocolError("a request with a body")
            if request is None:
                return
            await self._answer(http, request, writer)
            with contextlib.suppress(h11.LocalProtocolError):  # it wants to hang up now
                http.start_next_cycle()

    async def _answer(self, http: h11.Connection, request: h11.Request, writer: asyncio.StreamWriter) -> None:
        status, headers, place = self._find(request)
        content = place if isinstance(place, bytes) else b""
        length = len(content) if isinstance(place, bytes) else place.num_bytes
        fields = [("content-length", str(length)), ("content-type", "application/octet-stream"), *headers]
        writer.write(http.send(h11.Response(status_code=status, headers=fields)) or b"")
        if isinstance(place, Place):
            for start in range(0, length, PIECE_BYTES):
                piece = await asyncio.to_thread(_read, place, start, min(PIECE_BYTES, length - start))
                writer.write(http.send(h11.Data(data=piece)) or b"")
                await writer.drain()
                await self._pace.spend(len(piece))
        elif content:
            writer.write(http.send(h11.Data(data=content)) or b"")
        writer.write(http.send(h11.EndOfMessage()) or b"")
        await writer.drain()

    def _find(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], Place | bytes]:
        """Status, headers, and what is sent."""
        target = request.target.decode("ascii", "replace") if request.method == b"GET" else ""
        if asked := _HAVE.fullmatch(target):
            for lot in self._lots():
                if lot.release.file.sha256 == asked[1]:
                    num_segments = len(self._index(lot))
                    done = range(num_segments) if lot.done is None else lot.done
                    return 200, [], flags_of(done, num_segments)
        elif asked := _OBJECT.fullmatch(target):
            place = self._place_of(asked[2])
            wanted = next((value.decode("latin-1") for name, value in request.headers if name == b"range"), "")
            if place is not None:
                return _part(place, wanted)
        return 404, [], b""

    def _place_of(self, sha256: str) -> Place | None:
        for lot in self._lots():
            number, place = self._index(lot).get(sha256, (-1, None))
            if place is not None and (lot.done is None or number in lot.done):
                return Place(lot.path, place.offset, place.num_bytes)  # the file may have been moved since
        return None

    def _index(self, lot: Lot) -> dict[str, tuple[int, Place]]:
        file = lot.release.file.sha256
        if file not in self._indexes:
            places = places_of(lot.release, lot.path)
            self._indexes[file] = {digest: (number, place) for number, (digest, place) in enumerate(places.items())}
        return self._indexes[file]


def _part(place: Place, wanted: str) -> tuple[int, list[tuple[str, str]], Place | bytes]:
    if not wanted:
        return 200, [], place
    asked = _RANGE.fullmatch(wanted)
    start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, 0)
    if not 0 <= start < end <= place.num_bytes:
        return 416, [("content-range", f"bytes */{place.num_bytes}")], b""
    told = ("content-range", f"bytes {start}-{end - 1}/{place.num_bytes}")
    return 206, [told], Place(place.path, place.offset + start, end - start)


def _read(place: Place, start: int, num_bytes: int) -> bytes:
    with place.path.open("rb") as file:
        content = os.pread(file.fileno(), num_bytes, place.offset + start)
    if len(content) != num_bytes:
        raise OSError(f"{place.path} has become shorter")
    return content


def certificate_of(pem_file: Path) -> bytes:
    """The certificate of an identity, in DER form.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    text = pem_file.read_text("ascii")
    with contextlib.suppress(ValueError):
        start = text.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[start : text.index("-----END CERTIFICATE-----") + 26])
    raise ValueError(f"{pem_file} has no certificate")
