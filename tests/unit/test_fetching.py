import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.update.errand import Allowance, Ended, Fetch, Held, Link, Poisoned, Progress, Replanned, Said
from agent.update.errors import UpdateFailed, UpdateTroubled
from agent.update.fetching import fetch
from agent.update.record import Record
from contract.release import Release, object_path
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.noise import noise
from tests.fakes.release_server import ReleaseServer
from tests.fakes.releases import make_release

TENSOR_BYTES = 600_000  # more than one part


def write_file(path: Path, changed: bytes = b"") -> Path:
    """Five large tensors that cannot be compressed, of which the second begins with `changed`."""
    builder = GgufBuilder()
    for number in range(5):
        content = noise(TENSOR_BYTES, number)
        if number == 1:
            content = changed + content[len(changed) :]
        builder.tensor(f"blk.{number}.w.weight", "f32", (TENSOR_BYTES // 4,), content)
    path.write_bytes(builder.build())
    return path


class Node:
    """A node that fetches in this process, and what it said."""

    def __init__(self, folder: Path, release: Release) -> None:
        self.folder = folder
        self.release = release
        self.target = folder / "target"
        self.held: list[Held] = []
        self.allowance = Allowance()
        self.said: list[Said] = []

    def fetch(self, *servers: ReleaseServer, finish: bool = True) -> Ended:
        """One attempt."""
        errand = Fetch(
            folder=str(self.folder),
            release=self.release,
            target=str(self.target),
            held=self.held,
            link=Link(sources=[server.url for server in servers]),
            allowance=self.allowance,
            finish=finish,
        )
        record = Record(self.folder)
        try:
            return asyncio.run(fetch(errand, record, self.said.append))
        finally:
            record.close()

    def heard(self, kind: type[Said]) -> list[Any]:
        """What it said of a kind."""
        return [said for said in self.said if isinstance(said, kind)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of releases."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def one(folder: Path) -> Release:
    """A first version."""
    return make_release(write_file(folder / "one"), Objects(folder))


@pytest.fixture(scope="module")
def two(folder: Path, one: Release) -> Release:
    """A second one, which differs in 100 bytes."""
    return make_release(write_file(folder / "two", b"x" * 100), Objects(folder), [one], version="2")


@pytest.fixture
def server(folder: Path) -> Iterator[ReleaseServer]:
    """A server of the folder."""
    running = ReleaseServer(folder)
    yield running
    running.close()


@pytest.fixture
def mirror(folder: Path) -> Iterator[ReleaseServer]:
    """Another one."""
    running = ReleaseServer(folder)
    yield running
    running.close()


@pytest.fixture
def node(tmp_path: Path, one: Release) -> Node:
    """A node that has nothing and wants the first version."""
    return Node(tmp_path, one)


def test_a_release_is_fetched_once_and_progress_only_grows(node: Node, server: ReleaseServer, folder: Path) -> None:
    """Byte for byte; a second call finds all there."""
    ended = node.fetch(server)
    assert node.target.read_bytes() == (folder / "one").read_bytes()
    assert ended.num_bytes == server.sent_bytes <= node.release.file.bytes * 1.001
    told = [said.progress for said in node.heard(Progress)]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert node.fetch(server).num_bytes == 0


def test_of_a_new_version_only_the_difference_is_fetched(
    node: Node, server: ReleaseServer, folder: Path, one: Release, two: Release
) -> None:
    """The rest is copied from the file that is held."""
    node.release, node.held = two, [Held(one, str(folder / "one"))]
    ended = node.fetch(server)
    assert node.target.read_bytes() == (folder / "two").read_bytes()
    assert ended.num_bytes < 5_000


def test_damage_in_a_held_file_is_told_before_more_is_fetched(
    node: Node, server: ReleaseServer, folder: Path, tmp_path: Path, one: Release, two: Release
) -> None:
    """A new plan takes the place of the old one; the damaged file is used where it is right."""
    held = tmp_path / "held"
    raw = bytearray((folder / "one").read_bytes())
    raw[raw.index(noise(100, 1)) + 1000] ^= 1  # of the second tensor, to which there is a difference
    held.write_bytes(raw)
    node.release, node.held = two, [Held(one, str(held))]
    ended = node.fetch(server)
    (replanned,) = node.heard(Replanned)
    assert replanned.before_bytes < 5_000 < TENSOR_BYTES <= replanned.after_bytes < TENSOR_BYTES + 5_000
    assert "held" in replanned.why
    assert ended.num_bytes < TENSOR_BYTES + 5_000
    assert node.target.read_bytes() == (folder / "two").read_bytes()


def test_a_line_that_breaks_costs_no_bytes(node: Node, server: ReleaseServer, folder: Path) -> None:
    """What came of a part is kept."""
    server.faults.reset_after_bytes = 500_000
    ended = node.fetch(server)
    assert node.target.read_bytes() == (folder / "one").read_bytes()
    assert ended.num_bytes < node.release.file.bytes * 1.001
    assert node.heard(Poisoned) == []


def test_a_flipped_byte_is_fetched_again(node: Node, server: ReleaseServer, folder: Path) -> None:
    """From the same source when there is no other: a byte can flip anywhere between."""
    source = node.release.segments[3].sources[0]
    server.faults.flip = {object_path(source.sha256)}
    ended = node.fetch(server)
    assert node.target.read_bytes() == (folder / "one").read_bytes()
    assert ended.num_bytes <= node.release.file.bytes + source.bytes + 10_000
    assert len(node.heard(Poisoned)) == 1


@pytest.mark.parametrize(
    "faults",
    [
        {"always_flip": True},
        {"wrong_range": True},
        {"endless": True},
        {"encoding": "gzip"},
        {"redirect_to": "http://127.0.0.2:1/"},
    ],
    ids=str,
)
def test_a_source_that_lies_is_set_aside_with_one_event(
    node: Node, server: ReleaseServer, mirror: ReleaseServer, folder: Path, faults: dict[str, Any]
) -> None:
    """The other one has it all. Alone, it ends as trouble, and nothing of it is in the file."""
    for name, value in faults.items():
        setattr(server.faults, name, value)
    with pytest.raises(UpdateTroubled, match="cannot"):
        node.fetch(server)
    assert [said.source for said in node.heard(Poisoned)] == [server.url]
    node.said.clear()
    asked = len(server.paths)
    node.fetch(server, mirror)
    assert node.target.read_bytes() == (folder / "one").read_bytes()
    assert [said.source for said in node.heard(Poisoned)] == [server.url]
    assert len(server.paths) - asked < 20


def test_what_is_not_there_ends_at_once(node: Node, server: ReleaseServer, mirror: ReleaseServer) -> None:
    """Each source is asked once for the object that it lacks; one that has it is enough."""
    missing = object_path(node.release.segments[2].sources[0].sha256)
    for one in (server, mirror):
        one.faults.status[missing] = [404] * 100
    with pytest.raises(UpdateFailed, match="404"):
        node.fetch(server, mirror)
    assert server.paths.count(missing) <= 4  # its parts were asked for at the same time
    server.faults.status[missing] = []
    node.fetch(mirror, server)


def test_a_busy_server_is_left_alone_as_long_as_it_asks(node: Node, server: ReleaseServer) -> None:
    """The wait is told, for the workflow to keep; a short one is waited here."""
    server.faults.every_status, server.faults.headers = 429, {"retry-after": "90"}
    with pytest.raises(UpdateTroubled, match="429") as trouble:
        node.fetch(server)
    assert 85_000 < trouble.value.after_ms <= 90_000
    assert len(server.paths) <= 4


def test_a_day_has_a_budget_that_a_restart_does_not_renew(node: Node, server: ReleaseServer, folder: Path) -> None:
    """What came is kept; the next day goes on."""
    node.allowance = Allowance(budget_bytes=1_000_000, day=7, day_left_ms=5_000)
    for _ in range(3):
        with pytest.raises(UpdateTroubled, match="left for this day") as trouble:
            node.fetch(server)
        assert trouble.value.after_ms == 5_000
    record = Record(node.folder)
    assert 1_000_000 <= record.spent(7) < 1_000_000 + 4 * 64 * 1024
    record.close()
    node.allowance = Allowance(budget_bytes=10_000_000, day=8, day_left_ms=5_000)
    node.fetch(server)
    assert node.target.read_bytes() == (folder / "one").read_bytes()


def test_a_target_that_somebody_damaged_is_mended(node: Node, server: ReleaseServer, folder: Path) -> None:
    """Also when the record is gone: the file is read. Of a target that is gone nothing is believed."""
    node.fetch(server, finish=False)
    raw = bytearray(node.target.read_bytes())
    raw[-10] ^= 1
    node.target.write_bytes(raw)
    assert node.fetch(server).num_bytes == pytest.approx(TENSOR_BYTES, rel=0.1)
    assert node.target.read_bytes() == (folder / "one").read_bytes()
    (node.folder / "delivery.db").unlink()
    raw[-10] ^= 2
    node.target.write_bytes(raw)
    assert node.fetch(server).num_bytes == pytest.approx(TENSOR_BYTES, rel=0.1)
    node.target.unlink()
    assert node.fetch(server).num_bytes > 5 * TENSOR_BYTES
