"""Releases are published, listed and taken back, with a real database and real files."""

import asyncio
import hashlib
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contract.release import decode_release, object_path
from fleet.api.audit import AuditFilter
from fleet.api.releases import NewRelease, NewUpload, Published
from fleet.database.audit import read_audit
from fleet.database.store import open_database
from fleet.errors import ConflictError, NoRoomError, NotFoundError, UsageError
from fleet.folder import Folder
from fleet.releases import uploads
from fleet.releases.opening import Publishing, begin_releases, open_publishing
from tests.fakes.adapters import make_adapter
from tests.fakes.controller import settings
from tests.fakes.tiny_model import tiny_model, write_tiny_model
from tests.fakes.tuf_node import TufNode


class Desk:
    """A controller's folder, and what publishes in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ticks = itertools.count()
        begin_releases(place, settings().releases, self.now_ms)
        self.folder = Folder(place, settings())
        self.database = open_database(f"sqlite:///{place / 'fleet.db'}")
        self.publishing: Publishing = open_publishing(self.folder, self.database, self.now_ms)
        root = (self.folder.releases / "metadata/1.root.json").read_bytes()
        self.node = TufNode(place / "node", self.folder.releases, root)

    def now_ms(self) -> int:
        """Each time a little later."""
        return int(time.time() * 1000) + next(self._ticks)

    def send(self, file: Path) -> str:
        """Uploads a file; returns its digest."""
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        upload = self.publishing.uploads.begin(NewUpload(sha256=digest, bytes=len(content)))
        if not upload.is_here:
            asyncio.run(self.publishing.uploads.receive(upload.id, pieces(content)))
        return digest

    def publish(self, file: Path, reference: str, **said: Any) -> Published:
        """Uploads and publishes a file."""
        name, _, version = reference.partition("@")
        digest = self.send(file)
        raw = {"name": name, "version": version, "kind": "model", "sha256": digest, "license": "MIT", **said}
        return self.publishing.catalogue.publish(msgspec.convert(raw, NewRelease), "ann")


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    """As they come from a connection."""
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A new one."""
    made = Desk(tmp_path)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_what_is_published_can_be_fetched(desk: Desk, tiny: Path) -> None:
    """By a node that trusts the root: the manifest through TUF, and each object that it names."""
    done = desk.publish(tiny, "tiny@1.0+a", sampling={"temperature": 0.2}, context_tokens=64)
    assert (done.is_new, done.missing, done.bytes) == (True, 0, tiny.stat().st_size)
    manifest = desk.node.manifest("tiny/1.0+a.json")
    assert manifest is not None
    release = decode_release(manifest)
    assert (release.reference, release.license, release.requires.architecture) == ("tiny@1.0+a", "MIT", "llama")
    assert release.memory_bytes > release.file.bytes
    for source in (source for segment in release.segments for source in segment.sources):
        content = (desk.folder.releases / object_path(source.sha256)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == source.sha256
    assert desk.publishing.catalogue.approves("tiny@1.0+a", "model")
    assert not desk.publishing.catalogue.approves("tiny@1.0+a", "adapter")
    with desk.database.read() as connection:
        (entry,) = read_audit(connection, AuditFilter())
    assert (entry.actor, entry.action, entry.subject) == ("ann", "release.publish", "tiny@1.0+a")


def test_a_version_is_one_content_for_ever(desk: Desk, tiny: Path, tmp_path: Path) -> None:
    """The same again changes nothing; another content, or something else that is said of it, is refused."""
    assert desk.publish(tiny, "tiny@1").is_new
    before = desk.node.refresh()
    assert not desk.publish(tiny, "tiny@1").is_new
    assert desk.node.refresh() == before
    other = write_tiny_model(tmp_path / "other.gguf", seed=2)
    for file, said in ((other, {}), (tiny, {"context_tokens": 9}), (tiny, {"license": "Apache-2.0"})):
        with pytest.raises(ConflictError, match="a release never changes"):
            desk.publish(file, "tiny@1", **said)
    assert desk.node.refresh() == before


def test_the_next_version_is_a_difference(desk: Desk, tiny: Path, tmp_path: Path) -> None:
    """To the last two releases of its name, and the answer says what that saves."""
    done = desk.publish(tiny, "tiny@1")
    for version in ("2", "3", "4"):
        edited = tiny_model()
        edited.key("general.description", "string", f"edit {version}")
        file = tmp_path / f"{version}.gguf"
        file.write_bytes(edited.build())
        done = desk.publish(file, f"tiny@{version}")
    assert sorted(done.update_bytes) == ["tiny@2", "tiny@3"]
    assert all(num_bytes < done.fetch_bytes / 3 for num_bytes in done.update_bytes.values())


def test_an_adapter_names_its_base(desk: Desk, tiny: Path, tmp_path: Path) -> None:
    """From its file, by a published model, or by a digest; without one nobody could say what it is for."""
    desk.publish(tiny, "tiny@1")
    file = make_adapter(tmp_path / "a.gguf", tiny)
    with pytest.raises(UsageError, match="name it with --base"):
        desk.publish(file, "tone@1", kind="adapter")
    with pytest.raises(NotFoundError, match="cannot find the release tiny@2"):
        desk.publish(file, "tone@1", kind="adapter", base="tiny@2")
    assert desk.publish(file, "tone@1", kind="adapter", base="tiny@1").is_new
    assert not desk.publish(file, "tone@1", kind="adapter", base=hashlib.sha256(tiny.read_bytes()).hexdigest()).is_new
    manifest = desk.publishing.catalogue.show("tone@1").manifest
    assert manifest["base_sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="as a model: the file is of an adapter"):
        desk.publish(file, "tone@2")
    shipped = Path("training/adapters/home-actions.gguf")
    assert desk.publish(shipped, "home@1", kind="adapter").is_new
    with pytest.raises(UsageError, match="the file says that it was made for"):
        desk.publish(shipped, "home@2", kind="adapter", base="tiny@1")


def test_a_yanked_release_is_wished_no_more(desk: Desk, tiny: Path) -> None:
    """It stays in the list with its reason, its version is used up, and nodes do not find it any more."""
    desk.publish(tiny, "tiny@1")
    assert desk.publishing.catalogue.yank("tiny@1", "it babbles", "ann") == 0
    assert not desk.publishing.catalogue.approves("tiny@1", "model")
    assert desk.node.manifest("tiny/1.json") is None
    (listed,) = desk.publishing.catalogue.all()
    assert (listed.release, listed.state, listed.reason) == ("tiny@1", "yanked", "it babbles")
    assert desk.publishing.catalogue.show("tiny@1").manifest["file"]["bytes"] == tiny.stat().st_size
    with pytest.raises(ConflictError, match="it was yanked"):
        desk.publish(tiny, "tiny@1")
    with pytest.raises(NotFoundError, match="cannot find the release tiny@1"):
        desk.publishing.catalogue.yank("tiny@1", "again", "ann")


def test_what_waits_for_a_signature_is_not_approved(desk: Desk, tiny: Path) -> None:
    """Nodes do not see it and it cannot be wished; publishing it again says the same."""
    for key in (desk.place / "keys").glob("targets-*.key"):
        key.unlink()
    assert [desk.publish(tiny, "tiny@1").missing for _ in range(2)] == [1, 1]
    (listed,) = desk.publishing.catalogue.all()
    assert listed.state == "waiting"
    assert not desk.publishing.catalogue.approves("tiny@1", "model")
    assert desk.node.manifest("tiny/1.json") is None


def test_only_the_announced_file_is_taken(desk: Desk, tiny: Path) -> None:
    """Neither another content, nor a part, nor more; nothing of it is left."""
    content = tiny.read_bytes()
    wanted = NewUpload(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    with pytest.raises(NotFoundError, match="it was not announced"):
        asyncio.run(desk.publishing.uploads.receive(wanted.sha256[:40], pieces(content)))
    upload = desk.publishing.uploads.begin(wanted)
    for wrong in (content[:-1], content + b"x", bytes(len(content))):
        with pytest.raises(UsageError, match=r"cannot take (what came|over)"):
            asyncio.run(desk.publishing.uploads.receive(upload.id, pieces(wrong)))
    assert list((desk.place / "uploads").iterdir()) == []
    with pytest.raises(NotFoundError, match="send it first"):
        desk.publishing.uploads.find(wanted.sha256)
    asyncio.run(desk.publishing.uploads.receive(upload.id, pieces(content)))
    assert desk.publishing.uploads.begin(wanted).is_here


def test_a_full_disk_is_known_before_the_first_byte(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the message says how much is missing."""
    usage = shutil.disk_usage(desk.place)._replace(free=uploads.RESERVE_BYTES + 150)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(NoRoomError, match=r"free 50$"):
        desk.publishing.uploads.begin(NewUpload(sha256="a" * 64, bytes=100))
    assert not desk.publishing.uploads.begin(NewUpload(sha256="a" * 64, bytes=75)).is_here


def test_what_nobody_publishes_is_removed(desk: Desk, tiny: Path) -> None:
    """After a day; and at the start what had not come whole."""
    digest = desk.send(tiny)
    (desk.place / "uploads" / "x.part").write_bytes(b"x")
    desk.publishing.uploads.tidy()
    assert {file.name for file in (desk.place / "uploads").iterdir()} == {digest, "x.part"}
    desk.publishing.uploads.tidy(at_start=True)
    assert {file.name for file in (desk.place / "uploads").iterdir()} == {digest}
