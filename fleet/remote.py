"""The controller over HTTP, for commands: values out, or an error of ours that says what to do."""

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from contract.enrolment import CA_PATH
from fleet.api.forms import Refusal
from fleet.errors import AccessError, ConflictError, ControllerError, FleetError, NoRoomError, NotFoundError, UsageError
from fleet.login import Login

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

TIMEOUT_S = 30.0
_JSON = {"Content-Type": "application/json"}
_ERRORS: dict[int, type[FleetError]] = {
    400: UsageError, 401: AccessError, 403: AccessError, 404: NotFoundError, 409: ConflictError, 422: UsageError,
    507: NoRoomError,
}  # fmt: skip


class Controller:
    """A controller, for a `with` block."""

    def __init__(self, login: Login) -> None:
        self.url = login.url
        tls = ssl.create_default_context(cadata=login.root_pem)
        headers = {"Authorization": f"Bearer {login.token}"}
        self._client = _httpx().Client(base_url=login.url, verify=tls, headers=headers, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def get(self, path: str, kind: type[T], **parameters: str | float | None) -> T:
        """What a path holds. Parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, kind, params=given)

    def send(self, method: str, path: str, kind: type[T], body: msgspec.Struct | None = None, **more: Any) -> T:
        """Changes something; `more` may hold a `timeout`."""
        if body is None:
            return self._ask(method, path, kind, **more)
        return self._ask(method, path, kind, content=msgspec.json.encode(body), headers=_JSON, **more)

    def upload(self, path: str, kind: type[T], pieces: Iterator[bytes], num_bytes: int) -> T:
        """Sends a file."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(num_bytes)}
        return self._ask("PUT", path, kind, content=pieces, headers=headers)

    def download(self, path: str, body: msgspec.Struct | None = None, **parameters: str) -> Iterator[bytes]:
        """What comes for a request, piece by piece."""
        request: dict[str, Any] = {"params": parameters}
        if body is not None:
            request |= {"content": msgspec.json.encode(body), "headers": _JSON}
        method = "GET" if body is None else "POST"
        with self._reaching(), self._client.stream(method, path, **request) as response:
            if response.status_code != 200:
                response.read()
                raise self._refused(response)
            yield from response.iter_bytes()

    def events(self, path: str, kind: type[T]) -> Iterator[T]:
        """The values of a stream of server-sent events, for as long as it lasts."""
        with self._reaching(), self._client.stream("GET", path) as response:
            if response.status_code != 200:
                response.read()
                raise self._refused(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield self._decode(line.removeprefix("data:").encode(), kind)

    def _ask(self, method: str, path: str, kind: type[T], **more: Any) -> T:
        with self._reaching():
            response = self._client.request(method, path, **more)
        if response.status_code != 200:
            raise self._refused(response)
        return self._decode(response.content, kind)

    def _decode(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise ControllerError(
                f"cannot read the answer of {self.url}: {error}; use the version of `fleet` that the controller has"
            ) from error

    def _refused(self, response: "httpx.Response") -> FleetError:
        try:
            message = msgspec.json.decode(response.content, type=Refusal).error.message
        except msgspec.MsgspecError:
            message = (
                f"cannot do this at {self.url}: it answers with status {response.status_code}; is it a controller?"
            )
        return _ERRORS.get(response.status_code, ControllerError)(message)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        with reaching(self.url):
            yield


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns what httpx raises into one sentence."""
    httpx = _httpx()
    try:
        yield
    except httpx.TimeoutException as error:
        raise ControllerError(f"cannot get an answer from {url} in time; look at the log of `fleet serve`") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ControllerError(
            f"cannot reach the controller at {url}: {error}; is `fleet serve` running there, and is this its host?"
        ) from error


def fetch_root(url: str) -> str:
    """The root certificate that a controller shows, which nothing has proved yet."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    with reaching(url):
        return str(_httpx().get(url + CA_PATH, verify=blind, timeout=TIMEOUT_S).text)


def _httpx() -> Any:
    """Httpx without its command line, which would load click, rich and pygments: longer than all the rest."""
    # None: such an import fails, and httpx goes on without.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    import httpx

    return httpx
