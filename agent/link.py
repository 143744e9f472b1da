"""The connection to the broker: the only file of the agent that knows paho.

Invariants:
- Every connection is a new paho client with the same client id and a session that the broker keeps, so a broker
  redelivers what was not acknowledged, and nothing of a broken connection leaks into the next.
- A message is acknowledged when its receiver calls `ack`, never by paho. An `ack` of an older connection does nothing.
- paho's callbacks run in the event loop's thread and end here.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from pathlib import Path
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
from agent.errors import ConfigError
from agent.tls import tls_context
from contract.limits import MAX_PAYLOAD_BYTES
from contract.mqtt5 import Properties

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 120.0
# A version-5 broker does not deliver more than this; a payload over the contract's limit must still arrive to get
# its answer.
MAX_PACKET_BYTES = 16 * MAX_PAYLOAD_BYTES
WINDOW = 64
GOODBYE_S = 2.0


class End(Enum):
    """How an attempt at a connection ended."""

    UNREACHABLE = auto()  # nobody there
    REFUSED = auto()  # somebody there, who did not take it
    SERVED = auto()  # taken, and broken later


class Incoming(msgspec.Struct, frozen=True):
    """A message from the broker. `ack` tells the broker that it need not deliver it again."""

    topic: str
    payload: bytes
    properties: Properties
    retained: bool
    redelivered: bool
    packet_id: int
    ack: Callable[[], None]


class Session(msgspec.Struct, frozen=True):
    """What a connection subscribes to, and what the broker says when it breaks."""

    filters: list[str]
    will_topic: str
    will_payload: bytes


class Link:
    """Keeps a connection to the broker."""

    def __init__(
        self,
        settings: Broker,
        client_id: str,
        *,
        new_session: Callable[[], Awaitable[Session]],
        on_message: Callable[[Incoming], None],
        on_connected: Callable[[], None],
        check_time: Callable[[], bool] = lambda: True,
    ) -> None:
        """`new_session` and `check_time` are asked before each attempt; the callbacks run in the event loop.

        `check_time` says whether this device's clock is fit to judge the dates of the broker's certificate.

        Raises:
            ConfigError: a file for TLS or the password cannot be used.
        """
        self._settings = settings
        self._client_id = client_id
        self._new_session = new_session
        self._on_message = on_message
        self._on_connected = on_connected
        self._check_time = check_time
        _tls(settings, check_time=True)  # to say now what is wrong
        self._password = _password(settings)
        self._versions = {
            "auto": (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
            "5": (MQTTProtocolVersion.MQTTv5,),
            "3.1.1": (MQTTProtocolVersion.MQTTv311,),
        }[settings.protocol]
        self._choice = 0  # which of `_versions` is tried next
        self._why = ""  # what ended the last connection, for people
        self._client: Client | None = None
        self._settled = asyncio.Event()  # the broker said yes or no, or the socket closed
        self._closed = asyncio.Event()
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._closing = False
        self.connected = False

    @property
    def protocol(self) -> str:
        """The protocol version in use, for people."""
        return "5" if self._is_5 else "3.1.1"

    @property
    def _is_5(self) -> bool:
        return self._versions[self._choice] is MQTTProtocolVersion.MQTTv5

    async def run(self) -> None:
        """Connects, and connects again with full jitter, until `close` or cancelled."""
        failures = 0
        said: set[str] = set()
        while True:
            end = await self._one_connection()
            if self._closing:
                return
            if end is End.REFUSED and self._choice + 1 < len(self._versions):
                self._choice += 1  # a broker without version 5 refuses it or just hangs up: the next one at once
                continue
            if end is End.SERVED:
                failures, said = 0, set()
            else:
                self._choice = 0
            failures += 1
            kind = self._why if end is End.REFUSED else "away"
            if kind not in said:  # once per outage, which may take days, and once per reason of a broker that is there
                said.add(kind)
                log.warning(
                    "no connection to the broker; trying again with growing pauses",
                    broker=f"{self._settings.host}:{self._settings.port}",
                    why=self._why,
                )
            longest = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0, longest))  # jitter is no secret

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, properties: Properties | None = None
    ) -> asyncio.Future[None] | None:
        """Sends a message. For QoS 1 the future is done when the broker has it, and cancelled when the connection
        breaks first. None when there is no connection.
        """
        if self._client is None or not self.connected:
            return None
        info = self._client.publish(topic, payload, qos, retain, self._to_paho(properties))
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        if qos == 0:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending[info.mid] = future
        return future

    def subscribe(self, filters: list[str]) -> None:
        """Adds to what the present connection subscribes to; to the next one it is for `new_session` to say."""
        if filters and self._client is not None and self.connected:
            self._subscribe(self._client, filters)

    def unsubscribe(self, filters: list[str]) -> None:
        """Takes away from what the present connection, and the session that the broker keeps, subscribe to."""
        if filters and self._client is not None and self.connected:
            self._client.unsubscribe(filters)

    async def close(self) -> None:
        """Says goodbye, so that the broker does not publish the will."""
        if self._client is not None and self.connected:
            self._closing = True
            self._client.disconnect()  # written in the loop's next turn; the broker then closes the socket
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), GOODBYE_S)

    async def _one_connection(self) -> End:
        """One connection from the attempt to its end."""
        session = await self._new_session()
        try:
            # Read again each time: the certificate may have been renewed.
            client = self._make_client(session, _tls(self._settings, check_time=self._check_time()))
        except ConfigError as error:
            self._why = str(error)
            return End.REFUSED
        self._closed.clear()
        self._settled.clear()
        try:
            # In a thread: looking up the name and the handshake block.
            await asyncio.to_thread(self._connect, client)
        except ssl.SSLError as error:
            self._why = f"cannot agree on TLS: {error}"
            return End.REFUSED
        except (OSError, ValueError) as error:
            self._why = str(error)
            return End.UNREACHABLE
        self._client = client
        self._why = "the broker hangs up or says nothing"
        misc = asyncio.create_task(self._keep_alive(client))
        try:
            await asyncio.wait_for(self._settled.wait(), CONNECT_TIMEOUT_S)
            if not self.connected:
                return End.REFUSED
            self._why = "the connection broke"
            self._subscribe(client, session.filters)
            log.info(
                "connected to the broker",
                broker=f"{self._settings.host}:{self._settings.port}",
                protocol=self.protocol,
            )
            self._on_connected()
            await self._closed.wait()
            return End.SERVED
        except TimeoutError:
            return End.REFUSED
        finally:
            misc.cancel()
            self._drop(client)

    def _make_client(self, session: Session, tls: ssl.SSLContext | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._versions[self._choice],
            clean_session=None if self._is_5 else False,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if self._settings.username:
            client.username_pw_set(self._settings.username, self._password)
        if tls is not None:
            client.tls_set_context(tls)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(WINDOW)
        client.will_set(session.will_topic, session.will_payload, qos=1, retain=True)
        client.on_socket_open = self._socket_opened
        client.on_socket_close = self._socket_closed
        client.on_socket_register_write = self._wants_write
        client.on_socket_unregister_write = self._wrote
        client.on_connect = self._connack
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._puback
        return client

    def _connect(self, client: Client) -> None:
        host, port, keepalive_s = self._settings.host, self._settings.port, self._settings.keepalive_s
        if self._is_5:
            properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = self._settings.session_expiry_s
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            client.connect(host, port, keepalive_s, clean_start=False, properties=properties)
        else:
            client.connect(host, port, keepalive_s)

    def _subscribe(self, client: Client, filters: list[str]) -> None:
        if self._is_5:
            options = SubscribeOptions(qos=1)
            client.subscribe([(name, options) for name in filters])
        else:
            client.subscribe([(name, 1) for name in filters])

    async def _keep_alive(self, client: Client) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._settings.keepalive_s / 8))
            client.loop_misc()

    def _drop(self, client: Client) -> None:
        """Forgets a connection; what was not acknowledged by the broker is sent again from the outbox."""
        self.connected = False
        self._client = None
        client.on_disconnect = None
        if (sock := client.socket()) is not None:
            self._unwatch(sock.fileno())
            sock.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.cancel()

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
            self._why = f"the broker refuses it: {reason}"
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
            if client is self._client and self.connected:
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


def _tls(settings: Broker, *, check_time: bool) -> ssl.SSLContext | None:
    if not (settings.tls or settings.ca_file):
        return None
    try:
        return tls_context(settings.ca_file, settings.cert_file, settings.key_file, check_time=check_time)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"cannot use the TLS files of [broker] (ca_file, cert_file, key_file): {error}; give readable PEM files"
        ) from error


def _password(settings: Broker) -> str | None:
    if not settings.password_file:
        return None
    try:
        return Path(settings.password_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read [broker] password_file {settings.password_file}: {error}") from error
