import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.clock import Clock
from agent.config import Updates
from agent.update import child
from agent.update.delivery import Delivery
from agent.update.errors import UpdateRefused, UpdateTroubled
from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.noise import noise
from tests.fakes.release_server import ReleaseServer
from tests.fakes.releases import make_release
from tests.fakes.tuf_repository import TufRepository

NUM_TENSORS, TENSOR_BYTES = 6, 300_000


class Node:
    """A node that is not enrolled and has one mirror."""

    def __init__(self, folder: Path, repository: TufRepository, server: ReleaseServer) -> None:
        self.alerts: list[tuple[str, dict[str, Any]]] = []
        self.target = folder / "target"
        identity = folder / "identity"
        identity.mkdir(parents=True)
        (identity / "root.json").write_bytes(repository.first_root)
        self.delivery = Delivery(
            folder / "delivery",
            identity,
            identity=lambda: None,
            settings=lambda: Updates(sources=[server.url]),
            clock=Clock(0, system_ms=lambda: time.time_ns() // 1_000_000, monotonic_s=time.monotonic),
            held=list,
            on_alert=lambda name, data: self.alerts.append((name, data)),
        )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> TufRepository:
    """One release, of a file of two megabytes."""
    folder = tmp_path_factory.mktemp("releases")
    made = TufRepository(folder)
    builder = GgufBuilder()
    for number in range(NUM_TENSORS):
        builder.tensor(f"blk.{number}.w", "f32", (TENSOR_BYTES // 4,), noise(TENSOR_BYTES, number))
    (folder / "file").write_bytes(builder.build())
    made.approve(make_release(folder / "file", Objects(folder)))
    made.publish()
    return made


@pytest.fixture
def server(repository: TufRepository) -> Iterator[ReleaseServer]:
    """A server of it."""
    running = ReleaseServer(repository.folder)
    yield running
    running.close()


@pytest.fixture
def node(tmp_path: Path, repository: TufRepository, server: ReleaseServer) -> Node:
    """A node that has nothing."""
    return Node(tmp_path, repository, server)


def children() -> list[psutil.Process]:
    """Processes that work on updates for this one."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one of another test has ended, and nobody asked how
            if child.__name__ in one.cmdline():
                found.append(one)
    return found


async def when(holds: Callable[[], object]) -> None:
    """Returns when something holds."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  # what happens in other processes and threads sets no event here
            await asyncio.sleep(0.005)


def test_an_approved_release_becomes_a_file(node: Node, repository: TufRepository) -> None:
    """Checked, fetched, and finished, by processes that are gone afterwards. What nobody approved is refused."""
    told: list[float] = []

    async def all_of_it() -> Release:
        with pytest.raises(UpdateRefused, match="m@9"):
            await node.delivery.check("m@9")
        with pytest.raises(UpdateRefused, match="name@version"):
            await node.delivery.check("../m@1")
        release = await node.delivery.check("m@1")
        await node.delivery.fetch(release, node.target, told.append)
        await node.delivery.finish(release, node.target)
        return release

    release = asyncio.run(all_of_it())
    assert release.reference == "m@1"
    assert node.target.read_bytes() == (repository.folder / "file").read_bytes()
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert children() == []
    assert node.alerts == []


def test_killed_again_and_again_it_goes_on_where_it_was(
    node: Node, server: ReleaseServer, repository: TufRepository
) -> None:
    """Each kill costs what was on its way, which is less than a large segment."""
    server.faults.bytes_per_s = 2_000_000.0

    async def is_done_before_the_kill(release: Release) -> bool:
        work = asyncio.create_task(node.delivery.fetch(release, node.target, lambda _: None))
        enough = server.sent_bytes + 700_000
        await when(lambda: work.done() or server.sent_bytes > enough)
        for process in children():
            os.kill(process.pid, signal.SIGKILL)
        return not isinstance((await asyncio.gather(work, return_exceptions=True))[0], UpdateTroubled)

    async def until_done() -> int:
        release = await node.delivery.check("m@1")
        kills = 0
        while not await is_done_before_the_kill(release):
            kills += 1
        await node.delivery.finish(release, node.target)
        return kills

    kills = asyncio.run(until_done())
    assert kills >= 2
    assert node.target.read_bytes() == (repository.folder / "file").read_bytes()
    assert server.sent_bytes <= 1.05 * NUM_TENSORS * TENSOR_BYTES + kills * 2**20


def test_cancelling_ends_the_process_within_a_second(node: Node, server: ReleaseServer) -> None:
    """Also while the server says nothing."""

    async def cancel() -> float:
        release = await node.delivery.check("m@1")
        server.faults.silent = True
        work = asyncio.create_task(node.delivery.fetch(release, node.target, lambda _: None))
        asked = len(server.paths)
        await when(lambda: len(server.paths) > asked)
        began = time.monotonic()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return time.monotonic() - began

    asyncio.run(cancel())
    assert children() == []


def test_metadata_that_is_too_old_is_an_event_and_trouble(node: Node, repository: TufRepository) -> None:
    """The clock is the node's own, and the source is not called poisoned for it."""
    a_year_later_ms = time.time_ns() // 1_000_000 + 365 * 24 * 3600 * 1000
    node.delivery._clock = Clock(a_year_later_ms, system_ms=lambda: a_year_later_ms, monotonic_s=time.monotonic)
    with pytest.raises(UpdateTroubled, match="too old"):
        asyncio.run(node.delivery.check("m@1"))
    assert [name for name, _ in node.alerts] == ["metadata_expired"]
