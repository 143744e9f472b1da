"""The link to the broker: a small synchronous surface over paho. The only file here that imports paho.

Invariants:
- Every wait has an end, and ends with a value or a `BrokerError`.
- paho's callbacks run on its own thread; they fill queues and maps, and are not seen outside this file.
- A lost connection comes back by itself with its subscriptions, and what was published and not acknowledged
  is published again. Callers only notice that a wait takes longer.
- Memory is bounded: of QoS 0 what finds too much waiting is dropped, and with a `Holding` the broker keeps the rest.
"""

import contextlib
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from contract.mqtt5 import Properties
from fleet.broker_url import BrokerUrl
from fleet.errors import RefusedError, UnreachableError, unreachable

CONNECT_S: Final = 5.0
CONNACK_S: Final = 3.0
ACK_S: Final = 10.0
KEEPALIVE_S: Final = 60
MAX_WAITING: Final = 20_000

# Reason codes of MQTT 5; paho translates the return codes of 3.1.1 to them.
NO_SUBSCRIBER = 0x10
FIRST_FAILURE = 0x80
WRONG_VERSION = 0x84
BAD_LOGIN = (0x86, 0x87)


@dataclass(frozen=True)
class Incoming:
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool
    properties: Properties
    mid: int = 0  # what `Link.acknowledge` goes by; 0: nothing to acknowledge
    connection: int = 0


@dataclass(frozen=True)
class Holding:
    """The broker keeps messages of QoS 1 until they are acknowledged, also while nobody is there. MQTT 5 only.

    Attributes:
        client_id: the same at each start.
        session_s: how long it keeps them while nobody is there.
        most: so many come before one must be acknowledged.
    """

    client_id: str
    session_s: int
    most: int


@dataclass(frozen=True)
class Presence:
    """What is retained on a topic: `here` as soon as there is a connection, `lost` when it breaks."""

    topic: str
    here: bytes
    lost: bytes


class Link:
    """A connection to the broker; `open_link` makes one, for a `with` block."""

    def __init__(
        self,
        broker: BrokerUrl,
        tls: ssl.SSLContext | None,
        session_s: int,
        new_presence: Callable[[], Presence] | None,
        holding: Holding | None,
    ) -> None:
        self.broker = broker
        self.num_connections = 0
        self._tls = tls
        self._new_presence = new_presence
        self._presence: Presence | None = None
        self._unawaited: set[int] = set()
        self._holding = holding
        self._session_s = holding.session_s if holding else session_s
        self._client_id = holding.client_id if holding else f"fleet-{secrets.token_hex(8)}"
        self._incoming: queue.SimpleQueue[Incoming] = queue.SimpleQueue()
        self._connack: queue.SimpleQueue[ReasonCode | None] = queue.SimpleQueue()  # None: closed instead
        self._was_connected = False
        self._acked = threading.Condition()
        self._acks: dict[int, list[ReasonCode]] = {}
        self._filters: dict[str, int] = {}
        self._client = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._client.is_connected()

    @property
    def protocol(self) -> str:
        """The MQTT version in use: "5" or "3.1.1"."""
        return "5" if _is_five(self._client) else "3.1.1"

    def subscribe(self, filters: dict[str, int], *, timeout_s: float = ACK_S) -> None:
        """Subscribes to filters, each with its QoS, and waits until the broker granted all of them.

        Raises:
            BrokerError: a filter is refused, or there is no acknowledgement in time.
        """
        self._filters.update(filters)
        what = f"subscribe to {next(iter(filters))}"
        mid = self._client.subscribe(list(filters.items()))[1]
        if mid is None:
            raise self._lost(what)
        for name, reason in zip(filters, self._wait_for_ack(mid, what, timeout_s), strict=True):
            if reason.value >= FIRST_FAILURE:
                raise self._denied(f"subscribe to {name}", reason)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties | None = None,
        timeout_s: float = ACK_S,
    ) -> bool:
        """Publishes with QoS 1 (or 0) and waits for the broker's acknowledgement.

        Returns:
            False when the broker said that nobody subscribes to the topic (MQTT 5 brokers may), else True.

        Raises:
            BrokerError: the broker refuses, or does not acknowledge in time.
        """
        mirror = _to_paho(properties) if properties and _is_five(self._client) else None
        info = self._client.publish(topic, payload, qos, retain, properties=mirror)
        if qos == 0:
            return True
        what = f"publish on {topic}"
        (reason,) = self._wait_for_ack(info.mid, what, timeout_s)
        if reason.value >= FIRST_FAILURE:
            raise self._denied(what, reason)
        return bool(reason.value != NO_SUBSCRIBER)

    def post(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publishes with QoS 1 and does not wait. False: there is no connection, so nothing was done."""
        if not self.connected:
            return False
        info = self._client.publish(topic, payload, 1, retain)
        with self._acked:  # not around the call: paho holds a lock of its own when it calls us
            if self._acks.pop(info.mid, None) is None:
                self._unawaited.add(info.mid)
        return True

    def batch(self, timeout_s: float, most: int) -> list[Incoming]:
        """Messages as soon as there is one: all that are there, at most so many; none when none comes in time."""
        first = self.next(timeout_s)
        found = [] if first is None else [first]
        with contextlib.suppress(queue.Empty):
            while found and len(found) < most:
                found.append(self._incoming.get_nowait())
        return found

    def acknowledge(self, messages: Iterable[Incoming]) -> None:
        """The broker need not keep these any longer. Of an older connection that means nothing; they come again."""
        for message in messages:
            if message.mid and message.connection == self.num_connections:
                self._client.ack(message.mid, 1)

    def next(self, timeout_s: float) -> Incoming | None:
        """The next message, or None when none arrives within `timeout_s`."""
        try:
            return self._incoming.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def messages(self, *, total_s: float, quiet_s: float) -> Iterator[Incoming]:
        """Messages until none came for `quiet_s`, for at most `total_s`."""
        deadline = time.monotonic() + total_s
        while (left_s := deadline - time.monotonic()) > 0:
            incoming = self.next(min(left_s, quiet_s))
            if incoming is None:
                return
            yield incoming

    def close(self) -> None:
        """Ends the connection, and with it the session on the broker, unless messages are held for the next."""
        connected = self.connected
        end_session = None
        if self._session_s and not self._holding and _is_five(self._client):
            end_session = PahoProperties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]  # paho's
            end_session.SessionExpiryInterval = 0
        self._client.disconnect(properties=end_session)
        if connected:  # else the thread may be in the middle of an attempt; it ends after that by itself
            _stop(self._client)

    def _connect(self) -> paho.Client:
        """Tries MQTT 5, then 3.1.1.

        A broker without MQTT 5 should say "unsupported protocol version". Some close the connection instead,
        and amqtt says nothing at all, so silence too leads to the second attempt.
        """
        silent = False
        for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            client = self._start(protocol)
            try:
                reason, silent = self._connack.get(timeout=CONNACK_S), False
            except queue.Empty:
                reason, silent = None, True
            if reason is not None and not reason.is_failure:
                return client
            client.disconnect()
            _stop(client)
            self._connack = queue.SimpleQueue()
            if reason is not None and reason.value != WRONG_VERSION:
                raise self._not_let_in(reason)
        wants = "a client certificate (--cert, --key)" if self._tls else "TLS (mqtts://)"
        raise UnreachableError(
            f"cannot reach the broker at {self.broker.address}: "
            f"it {'does not answer' if silent else 'closes the connection'} after connecting; "
            f"is it an MQTT broker, and does it want {wants}?"
        )

    def _start(self, protocol: MQTTProtocolVersion) -> paho.Client:
        """Opens the socket and starts paho's thread, which then talks MQTT."""
        five = protocol == MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else True,
            protocol=protocol,
            manual_ack=five and self._holding is not None,
        )
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(min_delay=1, max_delay=8)
        if self.broker.user is not None:
            client.username_pw_set(self.broker.user, self.broker.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_socket_open = _send_at_once
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        session = None
        if five and self._session_s:
            session = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            session.SessionExpiryInterval = self._session_s
        clean = paho.MQTT_CLEAN_START_FIRST_ONLY
        if session and self._holding:
            clean, session.ReceiveMaximum = False, self._holding.most
        try:
            client.connect(self.broker.host, self.broker.port, KEEPALIVE_S, clean_start=clean, properties=session)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            raise unreachable(self.broker.address, error, CONNECT_S) from error
        client.loop_start()
        return client

    def _wait_for_ack(self, mid: int, what: str, timeout_s: float) -> list[ReasonCode]:
        with self._acked:
            if not self._acked.wait_for(lambda: mid in self._acks, timeout_s):
                raise self._lost(what)
            return self._acks.pop(mid)

    def _lost(self, what: str) -> UnreachableError:
        why = "it does not acknowledge" if self.connected else "the connection is lost"
        return UnreachableError(
            f"cannot {what} at {self.broker.address}: {why}; look at the broker's log and try again"
        )

    def _denied(self, what: str, reason: ReasonCode) -> RefusedError:
        return RefusedError(
            f"cannot {what} at {self.broker.address}: {str(reason).lower()}; "
            "use a user (and --client) that may, or have the broker's access list changed"
        )

    def _not_let_in(self, reason: ReasonCode) -> RefusedError:
        advice = "the broker's log says more"
        if reason.value in BAD_LOGIN:
            advice = "write the right user and password: --broker mqtt://user:password@host"
        return RefusedError(f"cannot log in to the broker at {self.broker.address}: {str(reason).lower()}; {advice}")

    # Callbacks, on paho's thread, with paho's signatures.

    def _on_pre_connect(self, client: paho.Client, _d: Any) -> None:
        if self._new_presence is not None:
            self._presence = self._new_presence()
            client.will_set(self._presence.topic, self._presence.lost, qos=1, retain=True)

    def _on_connect(self, client: paho.Client, _d: Any, flags: Any, reason: ReasonCode, _p: Any) -> None:
        if self._presence is not None and not reason.is_failure:
            info = client.publish(self._presence.topic, self._presence.here, 1, retain=True)
            self._unawaited.add(info.mid)
        self.num_connections += not reason.is_failure
        if not self._was_connected:
            self._was_connected = not reason.is_failure
            self._connack.put(reason)
        elif not reason.is_failure and self._filters and (self._holding or not flags.session_present):
            # With a session too when it is all one has: retained messages say what changed while the broker was away.
            self._unawaited.add(client.subscribe(list(self._filters.items()))[1] or 0)

    def _on_disconnect(self, client: paho.Client, _d: Any, _flags: Any, _reason: Any, _p: Any) -> None:
        if not self._was_connected:
            client.loop_stop()  # from its own thread: only a mark that it shall not connect again
            self._connack.put(None)

    def _on_subscribe(self, _c: paho.Client, _d: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        self._on_ack(mid, reasons)

    def _on_publish(self, _c: paho.Client, _d: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        self._on_ack(mid, [reason])

    def _on_ack(self, mid: int, reasons: list[ReasonCode]) -> None:
        with self._acked:
            if mid in self._unawaited:
                self._unawaited.discard(mid)
                return
            self._acks[mid] = reasons
            self._acked.notify_all()

    def _on_message(self, _c: paho.Client, _d: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # none of the contract's topics
        if message.qos == 0 and self._incoming.qsize() >= MAX_WAITING:
            return
        properties = _from_paho(message.properties)
        mid = message.mid if self._holding else 0
        self._incoming.put(
            Incoming(topic, bytes(message.payload), message.retain, properties, mid, self.num_connections)
        )


def open_link(
    broker: BrokerUrl,
    tls: ssl.SSLContext | None = None,
    *,
    session_s: int = 0,
    new_presence: Callable[[], Presence] | None = None,
    holding: Holding | None = None,
) -> Link:
    """Connects to the broker.

    Args:
        broker: where it is.
        tls: how to talk TLS, or None for a plain connection.
        session_s: how long an MQTT 5 broker keeps messages for this link while the connection is away.
        new_presence: asked before every attempt to connect, for what to say about it.
        holding: what the broker keeps until it is acknowledged; in place of `session_s`.

    Raises:
        UnreachableError: nothing that talks MQTT answers there.
        RefusedError: the broker does not let us in.
    """
    return Link(broker, tls, session_s, new_presence, holding)


def _is_five(client: paho.Client) -> bool:
    return client.protocol == MQTTProtocolVersion.MQTTv5


def _stop(client: paho.Client) -> None:
    """Waits for the end of paho's thread."""
    # paho 2.2.0 joins a thread that it may have set to None the moment before; then it has ended.
    with contextlib.suppress(AttributeError):
        client.loop_stop()


def _send_at_once(_client: paho.Client, _d: Any, sock: Any) -> None:
    # A QoS 1 round trip takes 44 ms longer with Nagle's algorithm on this side.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _to_paho(properties: Properties) -> PahoProperties:
    result = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
    if properties.correlation is not None:
        result.CorrelationData = properties.correlation
    if properties.response_topic is not None:
        result.ResponseTopic = properties.response_topic
    if properties.expiry_s is not None:
        result.MessageExpiryInterval = properties.expiry_s
    if properties.user:
        result.UserProperty = list(properties.user)
    return result


def _from_paho(properties: PahoProperties | None) -> Properties:
    return Properties(
        correlation=getattr(properties, "CorrelationData", None),
        response_topic=getattr(properties, "ResponseTopic", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
        user=tuple((name, value) for name, value in getattr(properties, "UserProperty", ())),
    )
