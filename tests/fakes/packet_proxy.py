"""A proxy that knows where MQTT packets begin: it repeats publications and lets them overtake each other, by a seed.

Both directions, whole packets only. What stays as the protocol promises it: publications on one topic keep their order,
a repeated one of QoS 1 says so (DUP) and has its packet's number, and all other packets pass at once.
"""

import asyncio
from collections.abc import AsyncIterator

from tests.fakes.chaos_proxy import ChaosProxy

PUBLISH = 3
DUP = 0x08
QOS_1 = 0x02
LATE_S = 0.3
APART_S = 0.001  # two at the same time could be passed on in any order
# Of each publication: 1 in 3 is late, so that others overtake it, and 1 in 4 of QoS 1 comes twice.
LATE = 1 / 3
TWICE = 1 / 4


class PacketProxy(ChaosProxy):
    """In place of bytes it harms packets; no connection is lost."""

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        free_at: dict[bytes, float] = {}  # when the last publication on a topic will have been passed on
        async for packet in packets(reader):
            if packet[0] >> 4 != PUBLISH:
                writer.write(packet)
                continue
            topic = topic_of(packet)
            for copy in self._copies(packet):
                at = max(loop.time() + self._lateness_s(), free_at.get(topic, 0.0))
                free_at[topic] = at + APART_S
                loop.call_at(at, _write, writer, copy)

    def _copies(self, packet: bytes) -> list[bytes]:
        if self._random is None or not packet[0] & QOS_1 or self._random.random() >= TWICE:
            return [packet]
        self.num_faults += 1
        return [packet, bytes([packet[0] | DUP]) + packet[1:]]

    def _lateness_s(self) -> float:
        if self._random is None or self._random.random() >= LATE:
            return 0.0
        self.num_faults += 1
        return self._random.uniform(0, LATE_S)


async def packets(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes, packet by packet (MQTT 5, 2.1.1)."""
    try:
        while True:
            head = await reader.readexactly(1)
            length = 0
            for place in range(4):
                head += await reader.readexactly(1)
                length |= (head[-1] & 127) << 7 * place
                if head[-1] < 128:
                    break
            yield head + await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return  # the connection has ended


def topic_of(publication: bytes) -> bytes:
    """The topic of a PUBLISH packet."""
    begin = next(place for place in range(1, 5) if publication[place] < 128) + 1
    length = int.from_bytes(publication[begin : begin + 2], "big")
    return publication[begin + 2 : begin + 2 + length]


def _write(writer: asyncio.StreamWriter, packet: bytes) -> None:
    if not writer.is_closing():
        writer.write(packet)
