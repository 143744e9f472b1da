"""One connection to the broker: the only file of the agent that knows paho.

Invariants:
- Every connection is a new paho client, so nothing of a broken one leaks into the next.
- A message is acknowledged when its receiver calls `ack`, never by paho. An `ack` of an older connection does nothing.
- paho's callbacks run in the event loop's thread and end here.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import msgspec
import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.config import Broker
from agent.incoming import Incoming
from contract.limits import MAX_PAYLOAD_BYTES
from contract.mqtt5 import Properties

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
# A version-5 broker does not deliver more than this; a payload over the contract's limit must still arrive to get
# its answer.
MAX_PACKET_BYTES = 16 * MAX_PAYLOAD_BYTES
WINDOW = 64
GOODBYE_S = 2.0


class Version(Enum):
    """Of MQTT; the values are for people."""

    V5 = "5"
    V311 = "3.1.1"


class Failure(Enum):
    """Why there is no connection."""

    UNREACHABLE = auto()  # nobody there
    REFUSED = auto()  # somebody there, who did not take it


class Session(msgspec.Struct, frozen=True):
    """What a connection subscribes to, and what the broker says when it breaks."""

    filters: list[str]
    will_topic: str
    will_payload: bytes


class Login(msgspec.Struct, frozen=True):
    """Who connects, and how."""

    client_id: str
    password: str | None
    tls: ssl.SSLContext | None
    version: Version


class Connection:
    """One, from the attempt to its end."""

    def __init__(
        self, settings: Broker, login: Login, session: Session, on_message: Callable[[Incoming], None]
    ) -> None:
        self._settings = settings
        self._session = session
        self._on_message = on_message
        self._is_5 = login.version is Version.V5
        self._settled = asyncio.Event()  # the broker said yes or no, or the socket closed
        self._closed = asyncio.Event()
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._misc: asyncio.Task[None] | None = None
        self._client = self._make_client(login)
        self.connected = False
        self.why = ""  # it is no connection (any more), for people

    async def open(self) -> Failure | None:
        """Connects and subscribes; None when that is done. `drop` it in any case."""
        try:
            # In a thread: looking up the name and the handshake block.
            await asyncio.to_thread(self._connect)
        except ssl.SSLError as error:
            self.why = f"cannot agree on TLS: {error}"
            return Failure.REFUSED
        except (OSError, ValueError) as error:
            self.why = str(error)
            return Failure.UNREACHABLE
        self.why = "the broker hangs up or says nothing"
        self._misc = asyncio.create_task(self._keep_alive())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), CONNECT_TIMEOUT_S)
        if not self.connected:
            return Failure.REFUSED
        self.why = "the connection broke"
        self.subscribe(self._session.filters)
        return None

    async def wait_closed(self) -> None:
        """Returns when it is at its end."""
        await self._closed.wait()

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties | None
    ) -> asyncio.Future[None] | None:
        """As `Link.publish`."""
        info = self._client.publish(topic, payload, qos, retain, self._to_paho(properties))
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS or qos == 0:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending[info.mid] = future
        return future

    def subscribe(self, filters: list[str]) -> None:
        """Adds to what it subscribes to."""
        if self._is_5:
            options = SubscribeOptions(qos=1)
            self._client.subscribe([(name, options) for name in filters])
        else:
            self._client.subscribe([(name, 1) for name in filters])

    def unsubscribe(self, filters: list[str]) -> None:
        """Takes away from it."""
        self._client.unsubscribe(filters)

    async def say_goodbye(self) -> None:
        """Ends it, so that the broker does not publish the will."""
        self._client.disconnect()  # written in the loop's next turn; the broker then closes the socket
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), GOODBYE_S)

    def drop(self) -> None:
        """Forgets it; what was not acknowledged by the broker is sent again from the outbox."""
        self.connected = False
        if self._misc is not None:
            self._misc.cancel()
        self._client.on_disconnect = None
        if (sock := self._client.socket()) is not None:
            self._unwatch(sock.fileno())
            sock.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.cancel()

    def _make_client(self, login: Login) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=login.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if self._is_5 else False,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if self._settings.username:
            client.username_pw_set(self._settings.username, login.password)
        if login.tls is not None:
            client.tls_set_context(login.tls)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(WINDOW)
        client.will_set(self._session.will_topic, self._session.will_payload, qos=1, retain=True)
        client.on_socket_open = self._socket_opened
        client.on_socket_close = self._socket_closed
        client.on_socket_register_write = self._wants_write
        client.on_socket_unregister_write = self._wrote
        client.on_connect = self._connack
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._puback
        return client

    def _connect(self) -> None:
        host, port, keepalive_s = self._settings.host, self._settings.port, self._settings.keepalive_s
        if self._is_5:
            properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = self._settings.session_expiry_s
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            self._client.connect(host, port, keepalive_s, clean_start=False, properties=properties)
        else:
            self._client.connect(host, port, keepalive_s)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._settings.keepalive_s / 8))
            self._client.loop_misc()

    # Callbacks of paho. While connecting they come from a thread, later from the event loop. Descriptors are passed on
    # as numbers, because paho closes a socket right after it says so.

    def _socket_opened(self, client: Client, _: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.call_soon_threadsafe(self._watch, client, sock)

    def _socket_closed(self, _: Client, __: Any, sock: Any) -> None:
        if self._in_loop():
            self._unwatch(sock.fileno())
        else:
            self._loop.call_soon_threadsafe(self._unwatch, sock.fileno())

    def _wants_write(self, client: Client, _: Any, __: Any) -> None:
        self._loop.call_soon_threadsafe(self._write, client)

    def _wrote(self, _: Client, __: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    def _in_loop(self) -> bool:
        return threading.get_ident() == self._thread

    def _watch(self, client: Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._read, client, sock)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._closed.set()
        self._settled.set()

    def _read(self, client: Client, sock: Any) -> None:
        client.loop_read()
        while isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending():
            client.loop_read()

    def _write(self, client: Client) -> None:
        # At once, and through the selector only when the socket's buffer is full: it saves a turn of the loop.
        client.loop_write()
        sock = client.socket()
        if client.want_write() and sock is not None:
            self._loop.add_writer(sock.fileno(), client.loop_write)

    def _connack(self, _: Client, __: Any, ___: ConnectFlags, reason: ReasonCode, ____: Any) -> None:
        if reason.is_failure:
            self.why = f"the broker refuses it: {reason}"
        else:
            self.connected = True
        self._settled.set()

    def _disconnected(self, _: Client, __: Any, ___: DisconnectFlags, ____: ReasonCode, _____: Any) -> None:
        self._closed.set()

    def _puback(self, _: Client, __: Any, mid: int, reason: ReasonCode, ___: Any) -> None:
        future = self._pending.pop(mid, None)
        if future and not future.done():
            if reason.is_failure:  # such as not authorized: sending it again would not help
                log.warning("the broker refuses a message", reason=str(reason))
            future.set_result(None)

    def _message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        def ack() -> None:
            if self.connected:
                client.ack(message.mid, message.qos)

        try:
            topic = message.topic
        except UnicodeDecodeError:
            ack()
            return
        self._on_message(
            Incoming(
                topic,
                bytes(message.payload),
                _from_paho(getattr(message, "properties", None)),
                message.retain,
                message.dup,
                message.mid,
                ack,
            )
        )

    def _to_paho(self, properties: Properties | None) -> PahoProperties | None:
        if properties is None or not self._is_5:
            return None
        paho = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as above
        if properties.correlation is not None:
            paho.CorrelationData = properties.correlation
        if properties.user:
            paho.UserProperty = list(properties.user)
        return paho


def _from_paho(paho: PahoProperties | None) -> Properties:
    return Properties(
        getattr(paho, "CorrelationData", None),
        getattr(paho, "ResponseTopic", None),
        getattr(paho, "MessageExpiryInterval", None),
    )
