"""A broker for trials: `python -m fleet.embedded_broker --port N`. amqtt (MQTT 3.1.1) on loopback, anonymous.

Never for a fleet: it has no shared subscriptions, so no pools; it forgets retained messages and sessions when
it ends; and it knows no users and no TLS. It is there so that a demo runs where mosquitto is not installed.
"""

import asyncio
import logging
import signal
from typing import Annotated

import typer
from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError

HOST = "127.0.0.1"
UNSUPPORTED_VERSION = b"\x20\x02\x00\x01"  # CONNACK: unacceptable protocol version (MQTT 3.1.1, table 3.1)
MQTT_5 = 5


class TrialBroker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """amqtt, with an answer to clients that try MQTT 5 first.

    amqtt 0.12.1 takes the properties of an MQTT 5 CONNECT for the client id's length, waits for bytes that
    never come and says nothing, so that only a client's own timeout tells it to use 3.1.1.
    """

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serves one connection, called by amqtt's listener."""
        try:
            opening, version = await read_opening(reader)
        except (asyncio.IncompleteReadError, ValueError, OSError):
            writer.close()
            return
        if version == MQTT_5:
            writer.write(UNSUPPORTED_VERSION)
            writer.close()
            return
        await self.external_connected(ReplayingReader(reader, opening), StreamWriterAdapter(writer), listener_name)


class ReplayingReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt ships no types
    """A stream whose first bytes were already read."""

    def __init__(self, reader: asyncio.StreamReader, first: bytes) -> None:
        super().__init__(reader)
        self._first = first

    async def read(self, n: int = -1) -> bytes:
        """As amqtt asks: exactly `n` bytes, or all until the end for -1."""
        count = len(self._first) if n == -1 else n
        replayed, self._first = self._first[:count], self._first[count:]
        rest = n if n == -1 else n - len(replayed)
        fresh: bytes = await super().read(rest) if rest else b""
        return replayed + fresh


async def read_opening(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The start of a CONNECT packet, up to and with the protocol level, and that level.

    Raises:
        ValueError: this is no CONNECT packet.
        asyncio.IncompleteReadError: the connection ended before that.
    """
    read = await reader.readexactly(2)
    while read[-1] & 0x80 and len(read) < 5:  # the remaining length takes one to four bytes
        read += await reader.readexactly(1)
    read += await reader.readexactly(2)
    name_bytes = int.from_bytes(read[-2:])
    if read[0] != 0x10 or name_bytes not in (len("MQTT"), len("MQIsdp")):
        raise ValueError("no CONNECT packet")
    read += await reader.readexactly(name_bytes + 1)
    return read, read[-1]


async def serve(port: int) -> None:
    """Listens until a signal to end arrives.

    Raises:
        BrokerError: the port cannot be listened on.
    """
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    broker = TrialBroker(
        BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"{HOST}:{port}")},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
    )
    await broker.start()
    typer.echo(f"listening on {HOST}:{port}")
    await ended.wait()
    await broker.shutdown()


def main(port: Annotated[int, typer.Option(min=1, max=65535)] = 1883) -> None:
    """Run a trial broker on loopback until SIGTERM or SIGINT."""
    # Above CRITICAL: amqtt logs each connection, and failures with tracebacks that can show payloads.
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(serve(port))
    except BrokerError:
        typer.echo(f"cannot listen on {HOST}:{port}: it is taken or not allowed; choose another --port", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
