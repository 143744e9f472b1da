"""Real parts for tests: mosquitto, the default model, an agent."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import minilm
from agent.models import DEFAULT_FILE
from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess
from tests.fakes.postgres import Postgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def model() -> Path:
    """The default model; `make model` fetches it."""
    path = Path(os.environ.get("SHOAL_TEST_MODEL", f".shoal/models/{DEFAULT_FILE}")).resolve()
    if not path.is_file():
        pytest.fail(f"cannot find the default model {path}: run `python3 bootstrap.py model`")
    return path


@pytest.fixture(scope="session")
def embedding_model() -> Path:
    """The default model for embeddings; `make test` fetches it."""
    path = Path(os.environ.get("SHOAL_TEST_EMBEDDINGS", f".shoal/embeddings/{minilm.FILE}")).resolve()
    if not path.is_file():
        pytest.fail(f"cannot find the embedding model {path}: run `python3 bootstrap.py embeddings`")
    return path


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker for all tests that do not harm it."""
    running = Mosquitto(tmp_path_factory.mktemp("broker")).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests."""
    running = Postgres().start()
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fleet.db'}"
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture(scope="session")
def agent(broker: Mosquitto, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent for all tests that do not harm it, online."""
    # Short answers for prompts that do not say how long.
    running = AgentProcess(
        tmp_path_factory.mktemp("agent"), broker.port, model, extra="[sampling]\nmax_tokens = 32\n"
    ).start(SHOAL_NODE_POOLS="kitchen")
    watcher = IotClient(broker.port)
    running.wait_online(watcher)
    watcher.close()
    yield running
    running.stop()


@pytest.fixture
def client(broker: Mosquitto) -> Iterator[IotClient]:
    """A client with an id of its own, so that tests do not see each other's answers."""
    running = IotClient(broker.port, client=f"c{next(_numbers)}")
    yield running
    running.close()
