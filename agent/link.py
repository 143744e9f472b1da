"""The link to the broker: keeps a connection, for as long as the agent runs.

Every connection has the same client id and a session that the broker keeps, so it redelivers what was not acknowledged.
"""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from agent.config import Broker
from agent.connection import Connection, Failure, Login, Session, Version
from agent.errors import ConfigError
from agent.incoming import Incoming
from agent.tls import tls_context
from contract.mqtt5 import Properties

log = structlog.get_logger()

BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 120.0
VERSIONS = {"auto": (Version.V5, Version.V311), "5": (Version.V5,), "3.1.1": (Version.V311,)}


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
        self._versions = VERSIONS[settings.protocol]
        self._choice = 0  # which of `_versions` is tried next
        self._why = ""  # what ended the last connection, for people
        self._connection: Connection | None = None
        self._closing = False

    @property
    def connected(self) -> bool:
        """Whether the broker hears us at this moment."""
        return self._connection is not None and self._connection.connected

    @property
    def protocol(self) -> str:
        """The protocol version in use, for people."""
        return self._versions[self._choice].value

    async def run(self) -> None:
        """Connects, and connects again with full jitter, until `close` or cancelled."""
        failures = 0
        said: set[str] = set()
        while True:
            failure = await self._one_connection()
            if self._closing:
                return
            if failure is Failure.REFUSED and self._choice + 1 < len(self._versions):
                self._choice += 1  # a broker without version 5 refuses it or just hangs up: the next one at once
                continue
            if failure is None:
                failures, said = 0, set()
            else:
                self._choice = 0
            failures += 1
            kind = self._why if failure is Failure.REFUSED else "away"
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
        if self._connection is None or not self._connection.connected:
            return None
        return self._connection.publish(topic, payload, qos=qos, retain=retain, properties=properties)

    def subscribe(self, filters: list[str]) -> None:
        """Adds to what the present connection subscribes to; to the next one it is for `new_session` to say."""
        if filters and self._connection is not None and self._connection.connected:
            self._connection.subscribe(filters)

    def unsubscribe(self, filters: list[str]) -> None:
        """Takes away from what the present connection, and the session that the broker keeps, subscribe to."""
        if filters and self._connection is not None and self._connection.connected:
            self._connection.unsubscribe(filters)

    async def close(self) -> None:
        """Says goodbye, so that the broker does not publish the will."""
        if self._connection is not None and self._connection.connected:
            self._closing = True
            await self._connection.say_goodbye()

    async def _one_connection(self) -> Failure | None:
        """One connection from the attempt to its end; None: it was taken, and broke later."""
        session = await self._new_session()
        try:
            # Read again each time: the certificate may have been renewed.
            tls = _tls(self._settings, check_time=self._check_time())
        except ConfigError as error:
            self._why = str(error)
            return Failure.REFUSED
        login = Login(self._client_id, self._password, tls, self._versions[self._choice])
        self._connection = connection = Connection(self._settings, login, session, self._on_message)
        try:
            failure = await connection.open()
            if failure is None:
                log.info(
                    "connected to the broker",
                    broker=f"{self._settings.host}:{self._settings.port}",
                    protocol=self.protocol,
                )
                self._on_connected()
                await connection.wait_closed()
            return failure
        finally:
            self._why = connection.why
            self._connection = None
            connection.drop()


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
