"""Ten thousand simulated nodes in one process: raw MQTT 3.1.1 over plain sockets, no library and no thread per node.

Run as `python -m bench.crowd PORT NODES KEEPALIVE_S TELEMETRY_S`; commands are JSON lines on stdin, answers on stdout:

    {"do": "connect", "per_s": 500}   all connect, so many a second    -> {"attempts": n}
    {"do": "freeze", "count": n}      n say nothing any more; their sockets stay open -> {"nodes": […], "at": s}
    {"do": "leave", "count": n}       n say goodbye                    -> {"nodes": […], "at": s}
    {"do": "quiet"}                   no telemetry from now on         -> {"sent": {node: batches}}
    {"do": "talk"}                    telemetry again                  -> {"attempts": n, "late_s": s}

What is as in a node: topics, payloads of real size made by `contract`, retained presence with a will, card, report with
a heartbeat, a subscription to its desired state, telemetry of QoS 0, reconnecting with the agent's full jitter. What is
not: no TLS, MQTT 3.1.1 instead of 5, no persistent session, no prompts, and QoS 1 is not repeated.
"""

import asyncio
import json
import random
import resource
import struct
import sys
import time
from typing import Any, cast

import msgspec

from contract import topics
from contract.presence import Card, Hardware, ModelInfo, NodeState, Speed, report_mark
from contract.steering import HEARTBEAT_JITTER, HEARTBEAT_S, Reported
from contract.telemetry import SysRow, pack_sys

FLEET = "home"
BACKOFF_FIRST_S, BACKOFF_LAST_S = 1.0, 120.0  # as agent.link
SYS_BYTES = 860

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 0x10, 0x20, 0x30, 0x40, 0x82, 0xC0, 0xE0


def packet(kind: int, body: bytes) -> bytes:
    """A control packet."""
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length.append(digit | (128 if rest else 0))
        if not rest:
            return bytes([kind]) + bytes(length) + body


def text(value: str | bytes) -> bytes:
    """A string, or bytes, with its length before it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


class SimulatedNode(asyncio.Protocol):
    """One node, over all its connections."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self.name = f"node-{number:05d}"
        self.crowd = crowd
        self.num_sent = 0
        self.is_frozen = False
        self.is_leaving = False
        self._last_report = b""
        self._run = f"r-{number}"
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._failures = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._status, self._card, self._reported, self._sys = (
            topic.path(FLEET)
            for topic in (
                topics.NodeStatus(self.name),
                topics.NodeCard(self.name),
                topics.NodeReported(self.name),
                topics.NodeTelemetry(self.name, "sys"),
            )
        )

    def try_connecting(self) -> None:
        """Begins to connect."""
        self.crowd.attempts += 1
        connecting = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.crowd.port)
        )
        connecting.add_done_callback(lambda done: self._again() if done.exception() else None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands; MQTT begins."""
        self._transport, self._received = cast(asyncio.Transport, transport), b""
        sess = round(time.time() * 1000)
        self._sess = sess
        will = msgspec.json.encode(NodeState("lost", sess, sess))
        flags = 0x02 | 0x04 | 0x08 | 0x20  # clean session, will, its QoS 1, its retain
        head = text("MQTT") + bytes([4, flags]) + struct.pack(">H", self.crowd.keepalive_s)
        self._write(packet(CONNECT, head + text(self.name) + text(self._status) + text(will)))

    def data_received(self, data: bytes) -> None:
        """Acknowledgements, and now and then a wish."""
        self._received += data
        while len(self._received) >= 2:
            length, at, shift = 0, 1, 0
            while True:
                if at >= len(self._received):
                    return
                digit = self._received[at]
                length |= (digit & 127) << shift
                shift, at = shift + 7, at + 1
                if digit < 128:
                    break
            if len(self._received) < at + length:
                return
            kind, body = self._received[0] & 0xF0, self._received[at : at + length]
            self._received = self._received[at + length :]
            self._take(kind, body)

    def connection_lost(self, _error: Exception | None) -> None:
        """The connection is gone; unless it said goodbye it comes back."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        self._transport = None
        if not self.is_leaving and not self.is_frozen:
            self._again()

    def freeze(self) -> None:
        """Says nothing any more, as after a power cut."""
        self.is_frozen = True
        for timer in self._timers:
            timer.cancel()

    def leave(self) -> None:
        """Says goodbye."""
        self.is_leaving = True
        self._say("offline")
        self._write(packet(DISCONNECT, b""))
        if self._transport:
            self._transport.close()

    def _again(self) -> None:
        self._failures += 1
        longest = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures, 10))
        asyncio.get_running_loop().call_later(random.uniform(0, longest), self.try_connecting)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == CONNACK:
            self._failures = 0
            self._begin()
        elif kind == PUBLISH:  # a wish, QoS 1: acknowledged and not obeyed
            length = struct.unpack_from(">H", body)[0]
            self._write(packet(PUBACK, body[2 + length : 4 + length]))

    def _begin(self) -> None:
        self._say("online")
        self._publish(self._card, self.crowd.card(self.name), qos=1, retain=True)
        self._report()
        self._write(packet(SUBSCRIBE, b"\0\1" + text(topics.NodeDesired(self.name).path(FLEET)) + b"\1"))
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(random.uniform(0, self.crowd.telemetry_s), self._measure),
            loop.call_later(random.uniform(0, HEARTBEAT_S), self._beat),
        ]

    def _say(self, state: Any) -> None:
        status = NodeState(state, self._sess, round(time.time() * 1000))
        self._publish(self._status, msgspec.json.encode(status), qos=1, retain=True)

    def _report(self) -> None:
        report = Reported(rev=0, phase="idle", active="smol@1", settings={"log.level": "info", "limits.queue": 64})
        self._last_report = msgspec.json.encode(report)
        self._publish(self._reported, self._last_report, qos=1, retain=True)

    def _beat(self) -> None:
        status = NodeState("online", self._sess, round(time.time() * 1000), report_mark(self._last_report))
        self._publish(self._status, msgspec.json.encode(status), qos=0, retain=True)
        pause_s = HEARTBEAT_S * random.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
        self._timers[1] = asyncio.get_running_loop().call_later(pause_s, self._beat)

    def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        self.crowd.late_s = max(self.crowd.late_s, loop.time() - self._timers[0].when())
        if not self.crowd.is_quiet:
            batch = pack_sys(self._run, self.num_sent, round(time.time() * 1000), [self.crowd.row()], SYS_BYTES)
            self._publish(self._sys, msgspec.json.encode(batch), qos=0, retain=False)
            self.num_sent += 1
        else:
            self._write(packet(PINGREQ, b""))
        self._timers[0] = loop.call_later(self.crowd.telemetry_s, self._measure)

    def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        mid = b"\0\2" if qos else b""
        self._write(packet(PUBLISH | qos << 1 | retain, text(topic) + mid + payload))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class Crowd:
    """All nodes, and what they have in common."""

    def __init__(self, port: int, num_nodes: int, keepalive_s: int, telemetry_s: float) -> None:
        self.port, self.keepalive_s, self.telemetry_s = port, keepalive_s, telemetry_s
        self.attempts = 0
        self.late_s = 0.0  # by how much this program was behind its own plan at worst
        self.is_quiet = False
        self.nodes = [SimulatedNode(self, number) for number in range(num_nodes)]
        self._random = random.Random(1)

    def card(self, name: str) -> bytes:
        """A card of the size that a node with one model has."""
        number = int(name.rpartition("-")[2])
        model = ModelInfo("smollm2-135m-instruct", "q8_0", "5a" * 32, 144_811_456, "llama", 2048, 4)
        card = Card(
            node=name, site=f"store-{number // 10}", labels={"ring": str(number % 4), "till": str(number % 10)},
            pools=["tills"], models=[model], speed=Speed(212.4, 31.0 + number % 7),
            versions={"shoal": "0.1.0", "python": "3.11.2", "llama-cpp-python": "0.3.36", "paho-mqtt": "2.2.0"},
            hardware=Hardware("aarch64", "Cortex-A76", 4, 2048 * (1 + number % 4), "Linux 6.6.31"),
            features=["generate", "stream", "json_schema", "cancel"], ts=round(time.time() * 1000),
        )  # fmt: skip
        return msgspec.json.encode(card)

    def row(self) -> SysRow:
        """A measurement with every column that a small device has."""
        rnd = self._random
        return SysRow(
            age_s=0, cpu_percent=round(rnd.uniform(1, 40), 1), cpu_stalled_percent=0.4, memory_stalled_percent=0.1,
            ram_available_mib=rnd.randrange(300, 1500), temperature_c=round(rnd.uniform(40, 70), 1),
            disk_free_mib=rnd.randrange(2000, 9000), received_kib=rnd.randrange(50), sent_kib=rnd.randrange(50),
            queue=rnd.randrange(3), queue_limit=64, engine="ready", models=1, quarantined=0,
        )  # fmt: skip

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Does one thing."""
        match command["do"]:
            case "connect":
                for node in self.nodes:
                    node.try_connecting()
                    await asyncio.sleep(1 / command["per_s"])
                return {"attempts": self.attempts}
            case "freeze" | "leave" as what:
                chosen = [node for node in self.nodes if not node.is_frozen and not node.is_leaving]
                chosen = chosen[: command["count"]]
                for node in chosen:
                    node.freeze() if what == "freeze" else node.leave()
                return {"nodes": [node.name for node in chosen], "at": time.time()}
            case "quiet":
                self.is_quiet = True
                return {"sent": {node.name: node.num_sent for node in self.nodes}}
            case _:
                self.is_quiet = False
                return {"attempts": self.attempts, "late_s": self.late_s}


async def main(port: int, num_nodes: int, keepalive_s: int, telemetry_s: float) -> None:
    """Obeys until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(port, num_nodes, keepalive_s, telemetry_s)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        print(json.dumps(await crowd.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
