"""A node that is connected as an enrolled one is, and says and answers what a test tells it to."""

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx
import msgspec

from contract import topics
from contract.presence import Card, Hardware, ModelInfo, NodeState, Speed
from contract.steering import Desired, Event, Reported
from contract.topics import Topic
from fleet.broker_url import BrokerUrl
from fleet.controller import now_ms
from fleet.link import Incoming, Presence, open_link
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.waiting import until

Script = Callable[["ScriptedNode", dict[str, Any], str], None]
Follow = Callable[["ScriptedNode", Desired], None]


def answer_hello(node: "ScriptedNode", request: dict[str, Any], client: str) -> None:
    """Says two words, streamed if that was asked for."""
    node.accept(request, client)
    if request.get("stream"):
        node.delta(request, client, 1, "Hello")
        node.delta(request, client, 2, " there")
    node.final(request, client, text="Hello there")


def model(version: str) -> ModelInfo:
    """A model that a node says it has."""
    return ModelInfo("m", version, "0" * 64, 1, "llama", 512, 1)


class ScriptedNode:
    """A node, for a `with` block, in which the controller knows it.

    `script` answers requests, `follow` does what is wished; commands are answered with 200 and their arguments.
    """

    def __init__(
        self, controller: ControllerProcess, name: str, script: Script = answer_hello, *, pools: tuple[str, ...] = (),
        follow: Follow | None = None, **card: Any,
    ) -> None:  # fmt: skip
        self.controller, self.name, self.script, self.follow = controller, name, script, follow
        self.fleet = controller.folder.fleet
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cancels: queue.Queue[dict[str, Any]] = queue.Queue()
        hardware, speed = Hardware("aarch64", "test", 4, 4096, "linux"), Speed(100.0, 20.0)
        self.card = Card(
            node=name, pools=list(pools), versions={"shoal": "0.1.0"}, hardware=hardware, speed=speed,
            ts=now_ms(), **{"models": [model("1")], **card},
        )  # fmt: skip
        self._ended = threading.Event()
        self._is_gone = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        folder = self.controller.folder
        pair = folder.authority("node").login(self.name, datetime.now(UTC), timedelta(days=1))
        file = self.controller.path / f"{self.name}.pem"
        file.write_bytes(pair.key_pem + pair.certificate_pem)
        tls = self.controller.tls()
        tls.load_cert_chain(file)

        def presence() -> Presence:
            status = topics.NodeStatus(self.name).path(self.fleet)
            here, lost = (msgspec.json.encode(NodeState(s, 1, now_ms())) for s in ("online", "lost"))
            return Presence(status, here, lost)

        self.link = open_link(BrokerUrl(HOST, folder.port("node"), tls=True), tls, new_presence=presence)
        kinds = (topics.NodeRequest, topics.NodeCancel, topics.NodeCommand, topics.NodeDesired)
        filters = {kind.filter(self.fleet, node=self.name): 1 for kind in kinds}
        for pool in self.card.pools:
            filters |= {topics.PoolRequest.shared_filter(self.fleet, pool): 1}
            filters |= {topics.PoolCancel.filter(self.fleet, pool=pool): 1}
        self.link.subscribe(filters)
        self.say(topics.NodeCard(self.name), self.card)
        self._thread.start()
        with self.controller.api() as api:
            until(lambda: self._is_known(api), f"node {self.name}")
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join(20)
        if not self._is_gone:
            self.say(topics.NodeStatus(self.name), NodeState("offline", 1, now_ms()))
        self.link.close()

    def _is_known(self, api: httpx.Client) -> bool:
        """Whether the controller has its card and its status."""
        found = api.get(f"/v1/nodes/{self.name}").json()
        return "record" in found and found["record"]["state"] == "online" and found["card"] is not None

    def say(self, topic: Topic, message: Any) -> None:
        """Publishes something as this node."""
        self.link.publish(topic.path(self.fleet), msgspec.json.encode(message), retain=topic.RETAINED)

    def vanish(self) -> None:
        """Loses its connection, without a goodbye."""
        self._is_gone = True
        self.link._client._sock_close()
        self.link._client.loop_stop()

    def report(self, rev: int, phase: str = "confirmed", **fields: Any) -> None:
        """Reports where it is."""
        self.say(topics.NodeReported(self.name), Reported(rev=rev, phase=phase, **fields))  # type: ignore[arg-type]  # a word

    def accept(self, request: dict[str, Any], client: str) -> None:
        """Says that a request is in its journal."""
        said = {"id": request["id"], "seq": 0, "node": self.name, "queue": 0, "model": "m@1"}
        self.say(topics.AnswerDelta(client, request["id"]), said)

    def delta(self, request: dict[str, Any], client: str, seq: int, text: str) -> None:
        """Says a piece."""
        self.say(topics.AnswerDelta(client, request["id"]), {"id": request["id"], "seq": seq, "text": text, "n": 1})

    def final(self, request: dict[str, Any], client: str, **fields: Any) -> None:
        """Says the end."""
        said = {"id": request["id"], "status": 200, "finish_reason": "stop", "node": self.name, "model": "m@1"}
        usage = {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 2}
        self.say(topics.AnswerFinal(client, request["id"]), said | {"usage": usage} | fields)

    def _serve(self) -> None:
        while not self._ended.is_set():
            incoming = self.link.next(0.1)
            if incoming is not None:
                self._take(incoming)

    def _take(self, incoming: Incoming) -> None:
        _, topic = topics.parse(incoming.topic)
        said = msgspec.json.decode(incoming.payload)
        match topic:
            case topics.NodeRequest() | topics.PoolRequest():
                self.requests.put(said)
                self.script(self, said, topic.client)
            case topics.NodeCancel() | topics.PoolCancel():
                self.cancels.put(said)
            case topics.NodeDesired() if self.follow:
                self.follow(self, msgspec.json.decode(said["payload"], type=Desired))
            case topics.NodeCommand():
                data = {"id": said["id"], "status": 200, "result": said["args"]}
                self.say(topics.NodeEvent(self.name, "cmd"), Event(said["id"], now_ms(), said["op"], data))
