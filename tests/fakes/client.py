"""An IoT client: what a device would do with any MQTT library."""

import json
import queue
import socket
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WAIT_S = 90.0


class Message:
    """A message with its JSON, when it is JSON."""

    def __init__(self, message: MQTTMessage) -> None:
        self.topic = message.topic
        self.payload = bytes(message.payload)
        self.properties: Any = getattr(message, "properties", None)
        self.at = time.monotonic()

    @property
    def json(self) -> Any:
        """The payload as JSON."""
        return json.loads(self.payload)

    @property
    def user(self) -> dict[str, str]:
        """MQTT 5 user properties."""
        return dict(getattr(self.properties, "UserProperty", []))


class IotClient:
    """Publishes requests to one node and collects what comes back."""

    def __init__(
        self,
        port: int,
        *,
        client: str = "c1",
        node: str = "n1",
        fleet: str = "home",
        version: int = 5,
        login: tuple[str, str] | None = None,
        keep: bool = False,
    ) -> None:
        """`client` may be `+`, to see the answers of all. `login` is user and password.

        With `keep` the broker keeps what comes while there is no connection.
        """
        self.port, self.client, self.node, self.root = port, client, node, f"shoal/v1/{fleet}"
        protocol = MQTTProtocolVersion.MQTTv5 if version == 5 else MQTTProtocolVersion.MQTTv311
        self._mqtt = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"kept-{client}" if keep else "",
            clean_session=None if version == 5 else not keep,
            protocol=protocol,
        )
        self._messages: queue.Queue[Message] = queue.Queue()
        self.seen: list[Message] = []
        subscribed: queue.Queue[bool] = queue.Queue()
        self._mqtt.on_message = lambda *args: self._messages.put(Message(args[2]))
        self._mqtt.on_subscribe = lambda *_: subscribed.put(True)
        # Without it a small message waits up to 40 ms for the acknowledgement of the one before.
        self._mqtt.on_socket_open = lambda *args: args[2].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if login:
            self._mqtt.username_pw_set(*login)
        self._mqtt.reconnect_delay_set(1, 2)
        if keep and version == 5:
            session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # as below
            session.SessionExpiryInterval = 3600
            self._mqtt.connect("127.0.0.1", port, clean_start=False, properties=session)
        else:
            self._mqtt.connect("127.0.0.1", port)
        self._mqtt.loop_start()
        self._mqtt.subscribe([(f"{self.root}/client/{client}/#", 1), (f"{self.root}/node/{node}/#", 1)])
        subscribed.get(timeout=20)

    def close(self) -> None:
        """Disconnects."""
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def publish(
        self, topic: str, payload: bytes | str, qos: int = 1, *, retain: bool = False, **properties: Any
    ) -> None:
        """Publishes below the fleet's root and waits until the broker has it. Keywords are MQTT 5 properties."""
        mirror = None
        if properties:
            mirror = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves this one untyped
            for name, value in properties.items():
                setattr(mirror, name, value)
        info = self._mqtt.publish(f"{self.root}/{topic}", payload, qos, retain, properties=mirror)
        info.wait_for_publish(20)

    def listen(self, topic: str) -> None:
        """Hears what is said on a topic below the fleet's root, and what the broker keeps there."""
        self._mqtt.subscribe(f"{self.root}/{topic}", 1)

    def ask(self, payload: bytes | str | dict[str, Any], **properties: Any) -> None:
        """Publishes a request."""
        body = json.dumps(payload) if isinstance(payload, dict) else payload
        self.publish(f"node/{self.node}/req/{self.client}", body, **properties)

    def wait(self, wanted: Callable[[Message], bool], timeout_s: float = WAIT_S) -> Message:
        """The first message, seen before or to come, for which `wanted` is true."""
        for message in self.seen:
            if wanted(message):
                return message
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                message = self._messages.get(timeout=max(0.001, left))
            except queue.Empty:
                topics = [message.topic for message in self.seen]
                raise AssertionError(f"nothing fits within {timeout_s} s; seen: {topics[-20:]}") from None
            self.seen.append(message)
            if wanted(message):
                return message

    def final(self, request_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The final of a request."""
        topic = f"{self.root}/client/{self.client}/rx/{request_id}/final"
        return dict(self.wait(lambda m: m.topic == topic, timeout_s).json)

    def any_final(self, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The next final of any request, taken off the record."""
        found = self.wait(lambda m: m.topic.endswith("/final"), timeout_s)
        self.seen.remove(found)
        return dict(found.json)

    def finals(self, request_id: str) -> list[dict[str, Any]]:
        """All finals of a request that were seen."""
        return [m.json for m in self.seen if m.topic.endswith(f"/rx/{request_id}/final")]

    def deltas(self, request_id: str) -> list[dict[str, Any]]:
        """All deltas of a request that were seen."""
        return [m.json for m in self.seen if m.topic.endswith(f"/rx/{request_id}/delta")]

    def settle(self) -> None:
        """Takes in everything that was published up to now: a message to itself comes behind it."""
        mark = f"mark-{time.monotonic_ns()}"
        self.publish(f"client/{'any' if self.client == '+' else self.client}/{mark}", b"x")
        self.wait(lambda m: m.topic.endswith(mark))
