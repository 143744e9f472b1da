"""The controller's HTTP API, for modules and the inventory."""

from __future__ import annotations

import json
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode

from ansible.module_utils.urls import open_url

TIMEOUT_S = 1800  # a large model is cut, hashed and signed before the controller answers
PAGE = 1000

ARGUMENTS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "token": {"type": "str", "required": True, "no_log": True},
    "ca_path": {"type": "path"},
}


class ControllerError(Exception):
    """The controller refuses, or is not there. `status` is 0 for the latter."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Controller:
    """One controller, as one operator."""

    def __init__(self, url: str, token: str, ca_path: str | None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._ca_path = ca_path

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The document that comes back.

        Raises:
            ControllerError: it refuses, or is not there.
        """
        given = {name: value for name, value in query.items() if value is not None}
        address = f"{self._url}/v1/{path}{'?' if given else ''}{urlencode(given)}"
        return self._call(method, address, None if body is None else json.dumps(body), "application/json")

    def upload(self, path: str, file: BinaryIO, num_bytes: int) -> None:
        """Sends a file.

        Raises:
            ControllerError: as `send`.
        """
        self._call("PUT", f"{self._url}/v1/{path}", file, "application/octet-stream", num_bytes)

    def _call(self, method: str, address: str, data: Any, form: str, num_bytes: int | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": form}
        if num_bytes is not None:
            headers["Content-Length"] = str(num_bytes)
        try:
            answer = open_url(
                address, data=data, headers=headers, method=method, timeout=TIMEOUT_S, ca_path=self._ca_path,
                use_proxy=False,
            )  # fmt: skip
            text = answer.read()
        except HTTPError as error:
            raise ControllerError(_sentence(error), error.code) from error
        except (URLError, OSError, ValueError) as error:
            raise ControllerError(f"cannot reach the controller at {self._url}: {error}") from error
        return json.loads(text) if text else None

    def nodes(self, query: str | None = None) -> list[dict[str, Any]]:
        """All nodes that fit a query, by name."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.send("GET", "nodes", query=query, offset=len(found), limit=PAGE)
            found += page["nodes"]
            if not page["nodes"] or len(found) >= page["num_nodes"]:
                return found


def _sentence(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"cannot use the controller's answer: HTTP {error.code}"
