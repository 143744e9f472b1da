"""A server of a folder of releases that does what good servers do, and what bad ones and bad lines do."""

import os
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO


@dataclass
class Faults:
    """What is wrong with it. Paths are those below its root."""

    reset_after_bytes: int | None = None  # of all that it sends, again and again
    flip: set[str] = field(default_factory=set)  # a byte of these is wrong, once
    always_flip: bool = False  # a byte of every object is wrong
    status: dict[str, list[int]] = field(default_factory=dict)  # what a path is answered with, before it is served
    headers: dict[str, str] = field(default_factory=dict)  # added to answers with such a status
    every_status: int | None = None  # of objects
    redirect_to: str | None = None  # of objects: another server
    wrong_range: bool = False
    endless: bool = False  # goes on after what was asked for
    encoding: str | None = None
    bytes_per_s: float | None = None
    silent: bool = False  # takes requests and says nothing


class ReleaseServer:
    """Serves `folder` on a free port of this machine, until closed."""

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.faults = Faults()
        self.sent_bytes = 0
        self.paths: list[str] = []
        self.ended = threading.Event()
        self._to_reset: int | None = None
        self._lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = _Quiet((host, 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, num_bytes: int) -> bool:
        """Notes bytes that go out; returns whether the line breaks now."""
        with self._lock:
            self.sent_bytes += num_bytes
            if self.faults.reset_after_bytes is None:
                return False
            left = self.faults.reset_after_bytes if self._to_reset is None else self._to_reset
            self._to_reset = left - num_bytes
            if self._to_reset > 0:
                return False
            self._to_reset = None
            return True


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server_of: ReleaseServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # its name in the library
        """Says nothing."""

    def do_GET(self) -> None:
        """Serves a file, or part of it."""
        owner, path = self.server_of, self.path.lstrip("/")
        faults = owner.faults
        owner.paths.append(path)
        if faults.silent:
            owner.ended.wait()
            return
        is_object = path.startswith("objects/")
        statuses = faults.status.get(path)
        if statuses or (is_object and faults.every_status):
            self._answer(statuses.pop(0) if statuses else faults.every_status or 500, faults.headers, b"")
            return
        if is_object and faults.redirect_to:
            self._answer(302, {"location": faults.redirect_to + path}, b"")
            return
        try:
            with (owner.folder / path).open("rb") as file:
                status, headers, body = self._part(file)
        except OSError:
            self._answer(404, {}, b"")
            return
        if path in faults.flip or (is_object and faults.always_flip):
            faults.flip.discard(path)
            body = bytes([body[0] ^ 1]) + body[1:]
        if faults.encoding:
            headers["content-encoding"] = faults.encoding
        self._answer(status, headers, body)

    def _part(self, file: BinaryIO) -> tuple[int, dict[str, str], bytes]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if not asked:
            return 200, {}, file.read()
        start, end = int(asked[1]), int(asked[2]) + 1
        if self.server_of.faults.wrong_range:
            start, end = start + 1, end + 1
        file.seek(start)
        size = os.fstat(file.fileno()).st_size
        return 206, {"content-range": f"bytes {start}-{end - 1}/{size}"}, file.read(end - start)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        faults = self.server_of.faults
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if faults.endless and body:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            while faults.endless and body:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            self._send(body)
        except OSError:
            self.close_connection = True

    def _send(self, body: bytes) -> None:
        faults = self.server_of.faults
        size = 16 * 1024
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            self.wfile.write(piece)
            if self.server_of.count(len(piece)):
                # RST instead of a polite end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()
                raise ConnectionResetError
            if faults.bytes_per_s:
                time.sleep(len(piece) / faults.bytes_per_s)
