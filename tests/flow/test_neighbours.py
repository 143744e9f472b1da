import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.noise import noise
from tests.fakes.release_server import ReleaseServer
from tests.fakes.releases import make_release
from tests.fakes.site_nodes import Bus, SiteNode

NUM_TENSORS, TENSOR_BYTES = 12, 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of objects."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def release(folder: Path) -> Release:
    """A file of a megabyte in twelve segments."""
    builder = GgufBuilder()
    for number in range(NUM_TENSORS):
        builder.tensor(f"blk.{number}.w", "f32", (TENSOR_BYTES // 4,), noise(TENSOR_BYTES, number))
    (folder / "file").write_bytes(builder.build())
    return make_release(folder / "file", Objects(folder))


@pytest.fixture
def server(folder: Path) -> Iterator[ReleaseServer]:
    """The controller, behind the line that is paid for."""
    running = ReleaseServer(folder)
    yield running
    running.close()


async def fetch_all(nodes: list[SiteNode], release: Release) -> None:
    """All at once."""
    for node in nodes:
        await node.swarm.look()
    await asyncio.gather(*(node.delivery.finish(release, node.target) for node in nodes))


def test_nodes_of_a_site_fetch_a_release_once_together(
    tmp_path: Path, server: ReleaseServer, folder: Path, release: Release
) -> None:
    """Told at the same moment, each gets its part over the line and the rest from the others."""
    bus = Bus()
    nodes = [SiteNode(tmp_path / name, name, server.url, bus) for name in ("n1", "n2", "n3")]
    asyncio.run(fetch_all(nodes, release))
    for node in nodes:
        assert node.target.read_bytes() == (folder / "file").read_bytes()
        assert node.alerts == []
    # How near to once, on a machine that has time for it, is `site_wan_ratio` of `python -m bench delivery`.
    assert server.sent_bytes < 2 * release.file.bytes


def test_a_neighbour_that_has_it_is_asked_instead_of_the_line(
    tmp_path: Path, server: ReleaseServer, folder: Path, release: Release
) -> None:
    """Not a byte of the release comes over the line."""
    bus = Bus()
    holder, seeker = (SiteNode(tmp_path / name, name, server.url, bus) for name in ("n1", "n2"))
    holder.held = [(release, folder / "file")]

    async def fetch() -> None:
        await holder.swarm.look()
        await fetch_all([seeker], release)

    asyncio.run(fetch())
    assert seeker.target.read_bytes() == (folder / "file").read_bytes()
    assert server.sent_bytes == 0


def test_a_poisoned_neighbour_is_set_aside_and_the_line_has_it(
    tmp_path: Path, server: ReleaseServer, folder: Path, release: Release
) -> None:
    """One event, and no byte of it in the file."""
    bus = Bus()
    poisoner, seeker = (SiteNode(tmp_path / name, name, server.url, bus) for name in ("n1", "n2"))
    raw = (folder / "file").read_bytes()
    (tmp_path / "poison").write_bytes(bytes(byte ^ 1 for byte in raw))
    poisoner.held = [(release, tmp_path / "poison")]

    async def fetch() -> None:
        await poisoner.swarm.look()
        await fetch_all([seeker], release)

    asyncio.run(fetch())
    assert seeker.target.read_bytes() == raw
    assert len(seeker.alerts) == 1
    # How near to once, on a machine that has time for it, is `site_wan_ratio` of `python -m bench delivery`.
    assert server.sent_bytes < 2 * release.file.bytes


def test_only_who_told_of_its_certificate_is_served(
    tmp_path: Path, server: ReleaseServer, folder: Path, release: Release
) -> None:
    """Somebody with another certificate gets nothing, and nobody anything but segments and flags."""
    bus = Bus()
    holder, friend, stranger = (SiteNode(tmp_path / name, name, server.url, bus) for name in ("n1", "n2", "n3"))
    bus.nodes.remove(stranger)
    holder.held = [(release, folder / "file")]
    digest = release.segments[0].sha256

    async def ask(node: SiteNode, path: str) -> int | None:
        from agent.update.errand import Link, Neighbours
        from agent.update.neighbourhood import Neighbourhood
        from agent.update.reader import Gone, SourceError

        pem = node.delivery._identity_folder / "identity.pem"
        told = friend.swarm.neighbours(release.file.sha256)
        neighbourhood = Neighbourhood("", [], Link(sources=[], pem_file=str(pem)), lambda *_: None)
        neighbourhood.follow(told or Neighbours())
        (peer,) = neighbourhood._peers.values()
        with contextlib.suppress(SourceError):
            connection = await peer.origin.open()
            try:
                return len(await connection.whole(path, 10**6))
            except Gone:
                return 0
            finally:
                connection.close()
        return None

    async def everybody() -> list[int | None]:
        for node in (holder, friend, holder):
            await node.swarm.look()
        path = f"objects/{digest[:2]}/{digest}"
        unknown = hashlib.sha256(b"").hexdigest()
        return [
            await ask(friend, path),
            await ask(friend, f"objects/{unknown[:2]}/{unknown}"),
            await ask(friend, "objects/../../../../etc/passwd"),
            await ask(friend, f"have/{unknown}"),
            await ask(stranger, path),
        ]

    assert asyncio.run(everybody()) == [release.segments[0].bytes, 0, 0, 0, None]
