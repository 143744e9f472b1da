"""Connections to the HTTPS port that come to nothing: 500 that say nothing and 50 that never end their request."""

import contextlib
import socket
import ssl
from typing import Self

from tests.fakes.controller import HOST, ControllerProcess

NUM_IDLE = 500
NUM_SLOW = 50


class Strangers:
    """All of them, from the beginning to the end of a `with` block."""

    def __init__(self, controller: ControllerProcess) -> None:
        self._controller = controller
        self._stack = contextlib.ExitStack()
        self.idle: list[socket.socket] = []
        self.slow: list[ssl.SSLSocket] = []

    def __enter__(self) -> Self:
        port = self._controller.folder.settings.https.port
        token = b"Authorization: Bearer %b\r\n" % self._controller.folder.operator_token.read_bytes()
        for _ in range(NUM_IDLE):
            self.idle.append(self._stack.enter_context(socket.create_connection((HOST, port), timeout=60)))
        for number in range(NUM_SLOW):
            plain = socket.create_connection((HOST, port), timeout=60)
            connection = self._stack.enter_context(self._controller.tls().wrap_socket(plain, server_hostname=HOST))
            # A third stops in the headers, the others in the body: of a device, and of who has a token.
            path, ending = ((b"enroll", b""), (b"enroll", b"\r\n{"), (b"chat/completions", b"\r\n{"))[number % 3]
            length = b"Content-Type: application/json\r\nContent-Length: 100\r\n"
            connection.sendall(b"POST /v1/%b HTTP/1.1\r\nHost: x\r\n%b%b%b" % (path, token, length, ending))
            self.slow.append(connection)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def all_stand(self) -> bool:
        """Whether the other side has closed none of them yet."""
        return all(map(_stands, [*self.idle, *self.slow]))


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; waits until it does or says something."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _stands(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except ConnectionError:
        return False
    finally:
        connection.settimeout(60)
