"""llama-server, the peer: its process, and requests over HTTP."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load import SAMPLING, Answer, Ask
from tests.fakes.mosquitto import free_port
from tests.fakes.waiting import until

HOST = "127.0.0.1"
START_S = 120.0


class LlamaServer:
    """A server that runs and is ready."""

    def __init__(self, peer: Path, model: Path, *flags: str, adapters: Sequence[Path] = (), **environment: str) -> None:
        """`adapters` are loaded; each request names its own by number."""
        self._port = free_port()
        command = [str(peer / "bin/llama-server"), "-m", str(model), "--host", HOST, "--port", str(self._port), *flags]
        if adapters:
            command += ["--lora", ",".join(map(str, adapters)), "--lora-init-without-apply"]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._is_ready, "llama-server", START_S)

    def answer(self, client: int, ask: Ask) -> Answer:  # noqa: ARG002  # it does not tell clients apart
        """Asks and waits for the end."""
        body: dict[str, Any] = {
            "messages": [{"role": role, "content": text} for role, text in ask.turns],
            "max_tokens": ask.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "timings_per_token": True,  # pieces of text do not tell how many tokens they are
            **SAMPLING,
        }
        if ask.adapter is not None:
            body["lora"] = [{"id": ask.adapter, "scale": 1.0}]
        connection = http.client.HTTPConnection(HOST, self._port, timeout=600)
        asked = time.monotonic()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"llama-server answers {response.status}: {response.read().decode()}")
        tokens: list[tuple[float, int]] = []
        count = 0
        timings: dict[str, Any] = {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            now = time.monotonic()
            timings = json.loads(line[6:]).get("timings") or timings
            if timings.get("predicted_n", 0) > count:
                tokens.append((now, timings["predicted_n"] - count))
                count = timings["predicted_n"]
        connection.close()
        cached, computed = timings.get("cache_n", 0), timings.get("prompt_n", 0)
        return Answer(ask.adapter, asked, tokens, time.monotonic(), cached + computed, cached)

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(30)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"llama-server ended with {self._process.returncode}")
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
