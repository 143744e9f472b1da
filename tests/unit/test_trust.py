import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.update.reader import Expired, Gone, Untrue
from agent.update.record import Record
from agent.update.trust import Trust
from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.releases import make_release
from tests.fakes.tuf_repository import TufRepository


class FolderReader:
    """Reads a folder of releases as a server would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file."""
        try:
            data = (self.folder / path).read_bytes()
        except OSError:
            raise Gone("it answers with status 404") from None
        if len(data) > max_bytes:
            raise Untrue("too much")
        return data


class Node:
    """A node that looks at a repository, each time with a new process's eyes."""

    def __init__(self, folder: Path, repository: TufRepository) -> None:
        self.folder = folder
        self.reader = FolderReader(repository.folder)
        self.first_root = repository.first_root
        self.now = datetime.now(UTC)

    def look(self, path: str = "m/1.json") -> bool:
        """Whether a target is approved by what the repository says now."""
        record = Record(self.folder)
        try:
            now_ms = round(self.now.timestamp() * 1000)
            trust = Trust(self.folder / "metadata", self.first_root, self.reader, record, now_ms)
            trust.refresh()
            return trust.target(path) is not None
        finally:
            record.close()

    def stored(self) -> dict[str, bytes]:
        """The metadata on the disk."""
        return {path.name: path.read_bytes() for path in (self.folder / "metadata").glob("*.json")}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A small one."""
    path = tmp_path / "file"
    path.write_bytes(GgufBuilder().tensor("t", "f32", (10,)).build())
    return make_release(path, Objects(tmp_path / "objects"))


@pytest.fixture
def repository(tmp_path: Path, release: Release) -> TufRepository:
    """One in which the release is approved."""
    made = TufRepository(tmp_path / "releases")
    made.approve(release)
    made.publish()
    return made


@pytest.fixture
def node(tmp_path: Path, repository: TufRepository) -> Node:
    """A node that has seen it."""
    seen = Node(tmp_path / "node", repository)
    assert seen.look()
    return seen


def below_threshold(repository: TufRepository) -> None:
    """The next root has one of the two signatures that it needs."""
    repository.root.version += 1
    signers, repository.signers["root"] = repository.signers["root"], repository.signers["root"][:1]
    repository.publish_root()
    repository.signers["root"] = signers


def revoked_key(repository: TufRepository) -> None:
    """The targets' key was exchanged, and who has the old one goes on signing."""
    repository.root.revoke_key(repository.signers["targets"][0].public_key.keyid, "targets")
    repository.new_key("targets")
    repository.root.version += 1
    repository.publish_root()
    repository.publish()


def mixed(repository: TufRepository) -> None:
    """A new snapshot names targets that are not those that are served."""
    repository.publish()
    older = repository.targets.version - 1
    repository.write(
        f"{repository.targets.version}.targets.json",
        (repository.folder / f"metadata/{older}.targets.json").read_bytes(),
    )


def rolled_back(repository: TufRepository) -> None:
    """An older, rightly signed state."""
    for signed in (repository.targets, repository.snapshot, repository.timestamp):
        signed.version -= 1
    repository.publish(bump=False)


def forged(repository: TufRepository) -> None:
    """Signed by a key of nobody."""
    repository.signers["timestamp"] = [type(repository.signers["timestamp"][0]).generate_ed25519()]
    repository.publish()


def too_large(repository: TufRepository) -> None:
    """A timestamp that does not end."""
    repository.write("timestamp.json", b" " * 20_000)


def garbage(repository: TufRepository) -> None:
    """Nested until a parser gives up."""
    repository.write("timestamp.json", b"[" * 15_000)


@pytest.mark.parametrize(
    "attack",
    [below_threshold, revoked_key, mixed, rolled_back, forged, too_large, garbage],
    ids=lambda one: one.__name__,
)
def test_an_attack_on_the_metadata_changes_nothing(
    node: Node, repository: TufRepository, attack: Callable[[TufRepository], None]
) -> None:
    """It is refused, what was known stays, and what was right before still is."""
    before, saved = node.stored(), repository.folder.with_name("saved")
    shutil.copytree(repository.folder, saved)
    attack(repository)
    with pytest.raises(Untrue, match=r"trusted|too much|version"):
        node.look()
    kept = node.stored()
    assert kept["targets.json"] == before["targets.json"]
    assert kept["root.json"] == before["root.json"] or attack is revoked_key  # its root was right
    if attack not in (revoked_key, mixed):  # of those a newer root or timestamp was right
        shutil.rmtree(repository.folder)
        saved.rename(repository.folder)
        assert node.look()


def test_what_nobody_approved_is_not_there(node: Node) -> None:
    """A manifest that lies in the folder is none of the metadata's."""
    assert not node.look("m/2.json")


def test_metadata_that_nobody_renews_expires_and_comes_back(node: Node, repository: TufRepository) -> None:
    """By the time that the node was given, whatever the system's clock says."""
    node.now += timedelta(days=31)
    with pytest.raises(Expired, match="too old"):
        node.look()
    for signed in (repository.root, repository.targets, repository.snapshot, repository.timestamp):
        signed.expires = (node.now + timedelta(days=1)).replace(microsecond=0)
    repository.root.version += 1
    repository.publish_root()
    repository.publish()
    assert node.look()


@pytest.mark.parametrize("lost", ["all", "torn"])
def test_versions_never_decrease_when_the_disk_lost_the_metadata(
    node: Node, repository: TufRepository, lost: str
) -> None:
    """The database has them too. An older state is refused, and is not what lies on the disk afterwards."""
    for path in (node.folder / "metadata").rglob("*.json"):
        if lost == "all":
            path.unlink()
        elif not path.is_symlink():
            path.write_bytes(path.read_bytes()[:100])
    rolled_back(repository)
    with pytest.raises(Untrue, match=r"timestamp\.json has the version 1, and this node has seen 2"):
        node.look()
    assert "timestamp.json" not in node.stored()
    repository.publish()
    assert node.look()


def test_new_keys_bring_a_fleet_out_of_a_version_that_was_made_too_large(node: Node, repository: TufRepository) -> None:
    """Who stole the online keys made the largest version there is; the root exchanges the keys, and it counts anew."""
    repository.timestamp.version = repository.snapshot.version = repository.targets.version = 10**9
    repository.publish()
    assert node.look()
    for role in ("timestamp", "snapshot"):
        repository.root.revoke_key(repository.signers[role][0].public_key.keyid, role)
        repository.signers[role] = [repository.new_key(role)]
    repository.root.version += 1
    repository.publish_root()
    repository.timestamp.version = repository.snapshot.version = repository.targets.version = 2
    repository.publish()
    assert node.look()


def test_everything_is_on_the_disk_before_it_is_used(
    node: Node, repository: TufRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a version is noted, each file that it stands for was synced after it was written, and so was its folder."""
    synced: dict[int, int] = {}
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_mtime_ns

    seen = []
    raise_floors = Record.raise_floors

    def check(record: Record, versions: list[tuple[str, str, int]]) -> None:
        folder = node.folder / "metadata"
        for path in [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]:
            assert synced.get(path.stat().st_ino) == path.stat().st_mtime_ns, path
        seen.append(versions)
        raise_floors(record, versions)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Record, "raise_floors", check)
    repository.publish()
    assert node.look()
    assert seen
