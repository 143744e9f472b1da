"""A TCP proxy that harms what it carries, as a seed says: late bytes, resets, connections that only look alive.

TCP itself hides loss and order, so on MQTT these show as acknowledgements that never come and messages that come twice.
"""

import asyncio
import random
import struct
import threading
from socket import SO_LINGER, SOL_SOCKET

from tests.fakes.mosquitto import free_port

LATE_S = 0.2
DEAD_S = 2.0
# Of each piece of bytes: 1 in 4 is late, 1 in 12 resets the connection, 1 in 12 is the last before it goes dead.
FAULTS = ["late"] * 3 + ["reset", "dead"] + [""] * 7


class ChaosProxy:
    """Between a client and a server on this machine. It begins well."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.num_faults = 0  # of the present trouble
        self._target_port = target_port
        self._random: random.Random | None = None
        self._ways: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", self.port), self._loop).result()

    def trouble(self, seed: int) -> None:
        """From now on it harms."""
        self.num_faults = 0
        self._random = random.Random(seed)

    def heal(self) -> None:
        """From now on it carries everything."""
        self._random = None

    def cut(self) -> None:
        """Ends all connections."""
        self._loop.call_soon_threadsafe(lambda: [way.cancel() for way in self._ways])

    def close(self) -> None:
        """Ends it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(self._carry(reader, other_writer)),
            asyncio.create_task(self._carry(other_reader, writer)),
        ]
        self._ways.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self._ways.difference_update(ways)
        for way in ways:
            way.cancel()
        for end in (writer, other_writer):
            if self._random is not None:  # a reset: what is on its way is lost
                end.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way, until it ends or is cut."""
        while data := await reader.read(1 << 16):
            fault, pause_s = self._pick()
            await asyncio.sleep(pause_s)
            if fault == "reset":
                writer.write(data[: len(data) // 2])
            if fault in ("reset", "dead"):
                return
            writer.write(data)
            await writer.drain()

    def _pick(self) -> tuple[str, float]:
        """What happens to a piece, and for how long nothing does."""
        if self._random is None:
            return "", 0.0
        fault = self._random.choice(FAULTS)
        self.num_faults += bool(fault)
        return fault, self._random.uniform(0, {"late": LATE_S, "dead": DEAD_S}.get(fault, 0.0))
