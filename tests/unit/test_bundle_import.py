import asyncio
import io
import tarfile
import time
from pathlib import Path

import pytest

from agent.update.bundle import BundleError, take_bundle
from agent.update.errand import Allowance, Fetch, Link
from agent.update.fetching import fetch
from agent.update.record import Record
from contract.release import Release, object_path
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.noise import noise
from tests.fakes.releases import make_release
from tests.fakes.tuf_repository import TufRepository


@pytest.fixture
def repository(tmp_path: Path) -> TufRepository:
    """A folder of releases with nothing in it."""
    return TufRepository(tmp_path / "releases")


@pytest.fixture
def release(tmp_path: Path, repository: TufRepository) -> Release:
    """A small one, approved."""
    path = tmp_path / "file"
    path.write_bytes(GgufBuilder().tensor("t", "f32", (100_000,), noise(400_000)).build())
    made = make_release(path, Objects(repository.folder))
    repository.approve(made)
    repository.publish()
    return made


class Node:
    """A node without network."""

    def __init__(self, folder: Path, repository: TufRepository) -> None:
        self.folder = folder / "delivery"
        self.folder.mkdir()
        self.root_file = folder / "root.json"
        self.root_file.write_bytes(repository.first_root)

    def take(self, bundle: Path) -> list[str]:
        """Imports it, now."""
        return take_bundle(bundle, self.folder, self.root_file, time.time_ns() // 1_000_000)


@pytest.fixture
def node(tmp_path: Path, repository: TufRepository) -> Node:
    """One that has seen nothing yet."""
    return Node(tmp_path, repository)


def exported(repository: TufRepository, **extra: bytes) -> Path:
    """The folder as one file, with more in it."""
    file = repository.folder.with_name("bundle.tar")
    with tarfile.open(file, "w") as tar:
        for path in sorted(repository.folder.rglob("*")):
            if path.is_file():
                tar.add(path, str(path.relative_to(repository.folder)))
        for name, content in extra.items():
            head = tarfile.TarInfo(name.replace("__", "/"))
            head.size = len(content)
            tar.addfile(head, io.BytesIO(content))
    return file


def test_a_bundle_is_a_source_without_network(
    tmp_path: Path, node: Node, repository: TufRepository, release: Release
) -> None:
    """What it has is fetched from it, byte for byte, and costs no bytes of the link."""
    assert node.take(exported(repository)) == ["m@1"]
    target = tmp_path / "target"
    link = Link(sources=[], bundle=str(node.folder / "bundle"))
    errand = Fetch(
        folder=str(node.folder),
        release=release,
        target=str(target),
        held=[],
        link=link,
        allowance=Allowance(),
        finish=True,
    )
    record = Record(node.folder)
    assert asyncio.run(fetch(errand, record, lambda _: None)).num_bytes == 0
    record.close()
    assert target.read_bytes() == (tmp_path / "file").read_bytes()


def test_a_bundle_that_nobody_signed_or_that_is_damaged_is_refused(
    node: Node, repository: TufRepository, release: Release
) -> None:
    """The earlier one stays, and nothing is left of the new one."""
    node.take(exported(repository))
    damaged = repository.folder / object_path(release.segments[-1].sources[0].sha256)
    content = damaged.read_bytes()
    damaged.unlink()
    with pytest.raises(BundleError, match="cannot trust"):
        node.take(exported(repository))
    damaged.write_bytes(content[:-1] + b"x")
    with pytest.raises(BundleError, match="damaged"):
        node.take(exported(repository))
    repository.write("timestamp.json", b"{}")
    with pytest.raises(BundleError, match="cannot trust"):
        node.take(exported(repository))
    with pytest.raises(BundleError, match="no part of a bundle"):
        node.take(exported(repository, **{"..__..__x": b""}))
    assert sorted(path.name for path in node.folder.iterdir() if "bundle" in path.name) == ["bundle"]


def test_a_bundle_of_an_older_state_is_refused(node: Node, repository: TufRepository, release: Release) -> None:
    """As from any other source: versions never decrease."""
    old = exported(repository)
    data = old.read_bytes()
    repository.publish()
    node.take(exported(repository))
    old.write_bytes(data)
    with pytest.raises(BundleError, match="version"):
        node.take(old)
