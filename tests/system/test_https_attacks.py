"""What strangers can do to the HTTPS port: little. Others are served meanwhile."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from contract.enrolment import RENEW_PATH
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.strangers import Strangers, ended
from tests.fakes.waiting import until


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("https")).ready()
    yield running
    running.stop()


def test_idle_and_slow_connections_do_not_keep_others_out(controller: ControllerProcess) -> None:
    """500 that say nothing and 50 that never end a request: another is answered beside them all, then they are ended.

    A machine that stands still for seconds may cut the first before the last is there; then they all come again.
    """

    def answered_beside_them() -> bool:
        with Strangers(controller) as strangers:
            answer = httpx.get(f"{controller.folder.url}/healthz", verify=controller.tls(), timeout=20)
            all_stood = strangers.all_stand
            assert answer.json()["healthy"] is True
            assert all(ended(connection) for connection in strangers.slow)
        return all_stood

    until(answered_beside_them, "answer while all connections stand")


def test_a_slow_second_request_is_ended_too(controller: ControllerProcess) -> None:
    """A connection that had one answer has no more time than others for the next request."""
    plain = socket.create_connection((HOST, controller.folder.settings.https.port), timeout=60)
    with controller.tls().wrap_socket(plain, server_hostname=HOST) as connection:
        connection.sendall(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"-----END CERTIFICATE-----" not in answer:
            answer += connection.recv(4096)
        connection.sendall(b"GET /v1/ca HTTP/1.1\r\n")
        until(lambda: ended(connection), "end of the connection")


def test_bytes_that_are_no_request_end_one_connection(controller: ControllerProcess) -> None:
    """Neither plain text where TLS is spoken nor garbage in TLS stops the controller."""
    port = controller.folder.settings.https.port
    with socket.create_connection((HOST, port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(connection)
    plain = socket.create_connection((HOST, port), timeout=60)
    with controller.tls().wrap_socket(plain, server_hostname=HOST) as secure:
        secure.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
        assert secure.recv(64).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{controller.folder.url}/healthz", verify=controller.tls()).json()["healthy"] is True


def test_a_certificate_of_another_root_is_refused(
    controller: ControllerProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only what this fleet's authorities signed gets through the handshake; a server's does not."""
    context = controller.tls()
    context.load_cert_chain(*controller.folder.key_pair("https"))
    with pytest.raises(httpx.TransportError):
        httpx.post(controller.folder.url + RENEW_PATH, verify=context)
