"""A provider of OpenAI's API on a port of its own: it echoes, counts, records all that it gets, and fails as told."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test"
# What it does in place of an answer.
FAULTS = (
    "busy", "error", "stall", "reset", "cut", "malformed", "no choices", "no end", "redirect", "huge", "key",
    "question",
)  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """An asker that has left is none of ours."""


class Provider:
    """Each request takes its fault from `next_fault`; None is an answer."""

    def __init__(self) -> None:
        self.next_fault: Callable[[], str | None] = lambda: None
        self.bodies: list[dict[str, Any]] = []
        self.raw = bytearray()
        self.most_at_once = 0
        self.released = threading.Event()  # ends what stalls
        self._at_once = 0
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the library's name
                provider.serve(self)

            def log_message(self, *_words: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def num_requests(self) -> int:
        """How often it was asked."""
        return len(self.bodies)

    def stop(self) -> None:
        """Ends it."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request, or does what its fault says."""
        raw = handler.rfile.read(int(handler.headers["content-length"]))
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.raw += raw
            self.bodies.append(json.loads(raw))
            fault = self.next_fault()
        try:
            _Reply(handler, json.loads(raw), self.released).send(fault)
        except OSError:  # the asker has left
            handler.close_connection = True
        finally:
            with self._lock:
                self._at_once -= 1


class _Reply:
    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], released: threading.Event) -> None:
        self._handler, self._body, self._released = handler, body, released
        self._is_chat = handler.path.endswith("/chat/completions")

    def send(self, fault: str | None) -> None:
        if self._handler.headers["authorization"] != f"Bearer {KEY}":
            fault = "key"
        status = {"busy": 429, "error": 500, "redirect": 302, "key": 401, "question": 400}.get(fault or "")
        if status:
            more = {"Retry-After": "2"} if fault == "busy" else {"Location": "http://127.0.0.1:9/"}
            self._whole(b'{"error": {"message": "no"}}', status, more)
        elif fault == "stall":
            self._released.wait(60)
            self._handler.close_connection = True
        elif fault == "reset":
            self._handler.close_connection = True
        elif fault == "malformed":
            self._whole(b'data: {"choices": [{"delta"\n\n' if self._body["stream"] else b'{"choices": [')
        elif fault == "no choices":
            self._whole(b'{"choices": [], "usage": null}')
        elif fault == "huge":
            self._whole(b"x" * 3_000_000)
        elif self._body["stream"]:
            self._stream(fault)
        elif fault in ("cut", "no end"):
            self._handler.send_response(200)
            self._handler.send_header("Content-Length", "1000")
            self._handler.end_headers()
            self._handler.wfile.write(b'{"choices"')
            self._handler.close_connection = True
        else:
            said = {"message": {"role": "assistant", "content": self._text}} if self._is_chat else {"text": self._text}
            answer = {"choices": [{**said, "index": 0, "finish_reason": "stop"}], "usage": self._usage}
            self._whole(json.dumps(answer).encode())

    @property
    def _text(self) -> str:
        asked = self._body["messages"][-1]["content"] if self._is_chat else self._body["prompt"]
        return f"echo: {asked}"

    @property
    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 10, "completion_tokens": min(5, self._body["max_tokens"])}

    def _whole(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def _stream(self, fault: str | None) -> None:
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.end_headers()
        self._handler.close_connection = True
        words = self._text.split(" ")
        for number, word in enumerate(words):
            piece = word if number == 0 else f" {word}"
            self._event({"choices": [self._piece(piece, None)]})
            if fault == "cut":
                return
        if fault == "no end":
            return
        self._event({"choices": [self._piece("", "stop")]})
        self._event({"choices": [], "usage": self._usage})
        self._handler.wfile.write(b"data: [DONE]\n\n")

    def _piece(self, text: str, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if self._is_chat else {"text": text}
        return {**said, "index": 0, "finish_reason": reason}

    def _event(self, value: dict[str, Any]) -> None:
        self._handler.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
