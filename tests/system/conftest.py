"""Agents that a test may harm, and the client ids that keep tests apart on the shared broker."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess

_numbers = itertools.count(1)

# The model never ends by itself with these: token 0 and 2 are its ends of text and turn.
ENDLESS: dict[str, Any] = {"logit_bias": {"0": -100, "2": -100}}


class Lab:
    """Starts agents and clients, and ends what a test left running. What an agent logged must be free of faults."""

    def __init__(self, folder: Path, broker: Mosquitto, model: Path) -> None:
        self.folder, self.broker, self.model = folder, broker, model
        self._agents: list[AgentProcess] = []
        self._clients: list[IotClient] = []

    def agent(self, extra: str = "", *, port: int = 0, model: Path | None = None) -> AgentProcess:
        """An agent with a node id of its own, not started yet."""
        node = f"lab{next(_numbers)}"
        folder = self.folder / node
        folder.mkdir()
        agent = AgentProcess(folder, port or self.broker.port, model or self.model, node=node, extra=extra)
        self._agents.append(agent)
        return agent

    def client(
        self, agent: AgentProcess, *, client: str = "", port: int = 0, version: int = 5, **settings: Any
    ) -> IotClient:
        """A client that asks `agent`."""
        name = client or f"lc{next(_numbers)}"
        running = IotClient(port or agent.port, client=name, node=agent.node, version=version, **settings)
        self._clients.append(running)
        return running

    def online(self, extra: str = "", **environment: str) -> tuple[AgentProcess, IotClient]:
        """An agent that is online, and a client for it."""
        agent = self.agent(extra).start(**environment)
        client = self.client(agent)
        agent.wait_online(client)
        return agent, client

    def close(self) -> None:
        """Ends everything."""
        for client in self._clients:
            client.close()
        for agent in self._agents:
            agent.stop(signal.SIGKILL)
        for agent in self._agents:
            assert agent.faults() == []


@pytest.fixture
def lab(tmp_path: Path, broker: Mosquitto, model: Path) -> Iterator[Lab]:
    """Agents and clients of one test."""
    running = Lab(tmp_path, broker, model)
    yield running
    running.close()


@pytest.fixture(scope="module")
def module_lab(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto, model: Path) -> Iterator[Lab]:
    """Agents and clients of one file."""
    running = Lab(tmp_path_factory.mktemp("lab"), broker, model)
    yield running
    running.close()


@pytest.fixture(params=[5, 4], ids=["mqtt5", "mqtt3.1.1"])
def either(request: pytest.FixtureRequest, agent: AgentProcess) -> Iterator[IotClient]:
    """A client of the shared agent, once for each protocol version."""
    running = IotClient(agent.port, client=f"e{next(_numbers)}", version=request.param)
    yield running
    running.close()
