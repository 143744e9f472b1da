"""A node as its users have it: mosquitto, the daemon with its engine, and requests over MQTT."""

import json
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load import ENDLESS, SAMPLING, Answer, Ask
from tests.fakes.client import IotClient, Message
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess

ANSWER_S = 600.0


class Node:
    """A node that is online, and a connection that asks it for all clients."""

    def __init__(
        self, folder: Path, model: Path, *, parallel: int, context_tokens: int, adapters: Sequence[Path] = ()
    ) -> None:
        """`adapters` are in its folder; requests name them by number."""
        self._broker = Mosquitto(folder).start()
        self._agent = AgentProcess(folder, self._broker.port, model)
        shelf = self._agent.state_dir / "adapters"
        shelf.mkdir(parents=True)
        for number, path in enumerate(adapters):
            shutil.copyfile(path, shelf / f"a{number}.gguf")
        self._client = IotClient(self._broker.port, client="+")
        self._answers: dict[str, queue.SimpleQueue[Message]] = {}
        self._agent.start(
            SHOAL_ENGINE_PARALLEL=str(parallel), SHOAL_ENGINE_THREADS="2", SHOAL_LOG_LEVEL="info",
            SHOAL_MODEL_CONTEXT_TOKENS=str(context_tokens), SHOAL_LIMITS_QUEUE="1000",
        )  # fmt: skip
        self._agent.wait_online(self._client)
        threading.Thread(target=self._dispatch, daemon=True).start()
        if adapters:
            # With the first request that names an adapter the engine begins to load what takes slots.
            self.answer(0, Ask([("user", "hello")], 1, adapter=0))
            self._agent.wait_record("adapter slots")

    def answer(self, client: int, ask: Ask) -> Answer:
        """Asks as `c{client}` and waits for the end."""
        request_id = uuid.uuid4().hex
        body: dict[str, Any] = {
            "id": request_id,
            "messages": [{"role": role, "content": text} for role, text in ask.turns],
            "max_tokens": ask.max_tokens,
            "logit_bias": {str(token): bias for token, bias in ENDLESS.items()},
            "stream": True,
            "ttl_ms": round(ANSWER_S * 1000),
            **SAMPLING,
        }
        if ask.adapter is not None:
            body["adapter"] = f"a{ask.adapter}"
        if ask.activation is not None:
            body["activation"] = ask.activation
        messages = self._answers[request_id] = queue.SimpleQueue()
        asked = time.monotonic()
        self._client.publish(f"node/{self._agent.node}/req/c{client}", json.dumps(body))
        tokens: list[tuple[float, int]] = []
        while True:
            message = messages.get(timeout=ANSWER_S)
            content = message.json
            if message.topic.endswith("/final"):
                break
            if content["seq"]:
                tokens.append((message.at, content["n"]))
        del self._answers[request_id]
        if content["status"] != 200:
            raise RuntimeError(f"the node answers {content['status']}: {content['error']}")
        usage = content["usage"]
        if missing := usage["completion_tokens"] - sum(count for _, count in tokens):
            tokens.append((message.at, missing))  # without text, or of a lost delta
        return Answer(ask.adapter, asked, tokens, message.at, usage["prompt_tokens"], usage["cached_tokens"])

    def close(self) -> None:
        """Ends it."""
        self._client.close()
        self._agent.stop()
        self._broker.stop()

    def _dispatch(self) -> None:
        while True:
            message = self._client.wait(lambda _: True, timeout_s=86_400)
            self._client.seen.clear()
            _, marker, request_id = message.topic.rpartition("/")[0].rpartition("/rx/")
            if marker and request_id in self._answers:
                self._answers[request_id].put(message)
