"""The controller's way to ask nodes, when its broker is not as it should be."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.requests import Request
from contract.topics import NodeRequest
from fleet.errors import RefusedError, UnreachableError
from fleet.gateway import Gateway
from fleet.rights import GATEWAY
from tests.fakes.controller import HOST, ControllerProcess

TO = NodeRequest("n1", GATEWAY)
MANY = 40


@pytest.fixture
def controller(tmp_path: Path) -> ControllerProcess:
    """A controller's folder; nothing runs."""
    return ControllerProcess(tmp_path)


class Hole:
    """A port that takes connections and says nothing, until it is closed."""

    def __init__(self, port: int) -> None:
        self.num_connections = 0
        self.asked = threading.Event()
        self._listening = socket.create_server((HOST, port))
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._listening.accept()[0])
                self.num_connections += 1
                self.asked.set()

    def close(self) -> None:
        """Ends it, and all its connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._listening, *self._taken):
            one.close()


@pytest.fixture
def hole(controller: ControllerProcess) -> Iterator[Hole]:
    """Where the broker should be."""
    made = Hole(controller.folder.port("client"))
    yield made
    with contextlib.suppress(OSError):
        made.close()


async def ask(gateway: Gateway, number: int) -> None:
    """Asks, and takes what comes first."""
    await anext(gateway.ask(TO, Request(id=f"r{number}", prompt="hello", ttl_ms=60_000)))


def test_a_broker_that_says_nothing_stops_nothing_else(controller: ControllerProcess, hole: Hole) -> None:
    """Many wait for one attempt to connect, in threads of their own, and all hear how it ended."""

    async def scenario() -> list[BaseException | None]:
        gateway = Gateway(controller.folder)
        asking = [asyncio.create_task(ask(gateway, number)) for number in range(MANY)]
        await asyncio.wait_for(asyncio.to_thread(hole.asked.wait), 60)
        await asyncio.wait_for(asyncio.to_thread(hole.close), 60)
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        await gateway.end()
        return outcomes

    outcomes = asyncio.run(scenario())
    assert [type(one) for one in outcomes] == [UnreachableError] * MANY
    assert hole.num_connections < MANY / 4


def test_a_connection_that_may_hear_nothing_is_closed(controller: ControllerProcess) -> None:
    """Else each attempt would leave one behind, which comes back for ever."""
    (controller.folder.broker / "client.acl").write_text("# Nobody may do anything.\n")

    async def scenario() -> None:
        gateway = Gateway(controller.folder)
        with pytest.raises(RefusedError):
            await ask(gateway, 1)
        await gateway.end()

    with controller.broker_alone():
        asyncio.run(scenario())
        assert [one.name for one in threading.enumerate() if one.name.startswith("paho")] == []
