"""The metadata of releases, as python-tuf's own client sees it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import ExpiredMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from fleet.errors import ConflictError, FolderError, NotFoundError, UsageError
from fleet.folder import ReleasesSection
from fleet.releases.keys import KeyRing, read_signer
from fleet.releases.metadata import MetadataFiles
from fleet.releases.opening import begin_releases
from fleet.releases.repository import Repository
from tests.fakes.tuf_node import TufNode

FORK = multiprocessing.get_context("fork")
DAY_S = 86_400
LIVES = ReleasesSection()


class Shop:
    """A folder of releases with its keys, a clock, and a node that follows it."""

    def __init__(self, place: Path, days_ago: float = 0) -> None:
        self.place, self.now_s = place, time.time() - days_ago * DAY_S
        begin_releases(place, LIVES, self.now_ms)
        self.repository = self.open()
        self.node = TufNode(place / "node", self.folder, (self.folder / "metadata/1.root.json").read_bytes())

    @property
    def folder(self) -> Path:
        """What nodes read."""
        return self.place / "releases"

    def now_ms(self) -> int:
        """The time."""
        return int(self.now_s * 1000)

    def open(self) -> Repository:
        """As after a new start."""
        files = MetadataFiles(self.folder, self.place / "pending")
        return Repository(files, KeyRing(self.place / "keys"), LIVES, self.now_ms)

    def approve(self, path: str, content: bytes = b"{}") -> int:
        """Puts a target there and approves it."""
        target = TargetFile.from_data(path, content, ["sha256"])
        file = self.folder / "targets" / target.get_prefixed_paths()[0]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)

        def change(targets: Targets) -> None:
            targets.targets[path] = target

        return self.repository.change_targets(change)

    def carry_away(self, role: str) -> list[Path]:
        """Takes the keys of a role out of the controller's folder."""
        away = self.place / "safe"
        away.mkdir(exist_ok=True)
        return [file.rename(away / file.name) for file in sorted((self.place / "keys").glob(f"{role}-*.key"))]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A new one."""
    return Shop(tmp_path)


def versions(node: TufNode) -> tuple[int, int]:
    """Of root and targets."""
    found = node.refresh()
    return found["root"], found["targets"]


def signed_elsewhere(metadata: Metadata[Any], *keys: Path) -> bytes:
    """What comes back from another machine."""
    copy: Metadata[Any] = Metadata.from_bytes(metadata.to_bytes())
    for key in keys:
        copy.sign(read_signer(key), append=True)
    return copy.to_bytes()


def replace_key(role: str, shop: Shop) -> Callable[[Root], None]:
    """A change of the root: a new key for a role, in place of its first one."""

    def change(root: Root) -> None:
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(KeyRing(shop.place / "keys").make(role), role)  # type: ignore[arg-type]

    return change


def test_a_node_finds_what_is_approved(shop: Shop) -> None:
    """And nothing that is not; each change is a new version of all that leads to it."""
    assert shop.node.refresh() == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    assert shop.node.manifest("m/1.json") is None
    assert shop.approve("m/1.json", b'{"a":1}') == 0
    assert shop.node.manifest("m/1.json") == b'{"a":1}'
    assert shop.node.refresh() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}


def test_two_of_three_root_keys_must_sign(shop: Shop) -> None:
    """One can be lost, and one alone changes nothing."""
    root = shop.repository.files.root().signed
    assert (len(root.roles["root"].keyids), root.roles["root"].threshold) == (3, 2)
    assert {role: len(root.roles[role].keyids) for role in ("targets", "snapshot", "timestamp")} == dict.fromkeys(
        ("targets", "snapshot", "timestamp"), 1
    )


def test_what_the_controller_signs_is_renewed_in_time(tmp_path: Path) -> None:
    """Once half of its life is over, and not before; the targets and the root too, while their keys are here."""
    shop = Shop(tmp_path, days_ago=10)
    shop.repository.settle()
    with pytest.raises(ExpiredMetadataError):
        shop.node.refresh()
    shop.now_s = time.time()
    for _ in range(2):
        shop.repository.settle()
        assert shop.node.refresh() == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 2}
    shop.now_s += 200 * DAY_S
    shop.repository.settle()
    assert versions(shop.node) == (2, 2)


def test_a_root_whose_keys_are_away_waits_for_them(tmp_path: Path) -> None:
    """The next one is made ready in time, and the old one goes on to hold."""
    shop = Shop(tmp_path)
    keys = shop.carry_away("root")
    shop.now_s += 200 * DAY_S
    shop.repository.settle()
    assert versions(shop.node) == (1, 2)
    assert shop.repository.missing("root") == 2
    for key, missing in zip(keys, (1, 0), strict=False):
        assert shop.repository.submit("root", signed_elsewhere(shop.repository.pending("root"), key)) == missing
    assert versions(shop.node) == (2, 2)
    assert shop.repository.missing("root") is None


def test_releases_can_be_approved_elsewhere(shop: Shop) -> None:
    """With the targets' key away, several changes wait together until it has signed them."""
    (key,) = shop.carry_away("targets")
    assert shop.approve("m/1.json") == shop.approve("m/2.json") == 1
    assert shop.node.manifest("m/1.json") is None
    first = shop.repository.pending("targets")
    assert shop.approve("m/3.json") == 1
    with pytest.raises(ConflictError, match="something else waits by now"):
        shop.repository.submit("targets", signed_elsewhere(first, key))
    with pytest.raises(UsageError, match="none is from a key of targets"):
        shop.repository.submit("targets", shop.repository.pending("targets").to_bytes())
    with pytest.raises(UsageError, match="cannot read the metadata"):
        shop.repository.submit("targets", b"[]")
    assert shop.repository.submit("targets", signed_elsewhere(shop.repository.pending("targets"), key)) == 0
    assert all(shop.node.manifest(f"m/{number}.json") for number in (1, 2, 3))
    with pytest.raises(NotFoundError, match="all is signed"):
        shop.repository.pending("targets")


def test_a_key_that_comes_back_signs_what_waits(shop: Shop) -> None:
    """Nobody has to publish again."""
    (key,) = shop.carry_away("targets")
    assert shop.approve("m/1.json") == 1
    key.rename(shop.place / "keys" / key.name)
    shop.open().settle()
    assert shop.node.manifest("m/1.json") is not None


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_keys_can_be_replaced_under_way(shop: Shop, role: str) -> None:
    """Nodes that knew the old key follow to the new one, and so do new nodes."""
    assert shop.approve("m/1.json") == 0
    before = shop.node.refresh()
    assert shop.repository.change_root(replace_key(role, shop)) == 0
    assert shop.node.refresh()["root"] == 2
    assert shop.node.refresh()["timestamp"] >= before["timestamp"]
    assert shop.approve("m/2.json") == 0
    assert shop.node.manifest("m/2.json") is not None
    root = (shop.folder / "metadata/root.json").read_bytes()
    assert TufNode(shop.place / "new", shop.folder, root).manifest("m/1.json") is not None


def test_a_lost_online_key_is_replaced(shop: Shop) -> None:
    """Nothing can be signed with it any more; a new root names another."""
    shop.carry_away("timestamp")
    with pytest.raises(FolderError, match="cannot sign the timestamp of releases: its key is not in"):
        shop.approve("m/1.json")
    assert shop.node.manifest("m/1.json") is None
    assert shop.repository.change_root(replace_key("timestamp", shop)) == 0
    assert shop.approve("m/1.json") == 0
    assert shop.node.manifest("m/1.json") is not None


def test_a_lost_targets_key_is_replaced(shop: Shop) -> None:
    """What was approved with it is approved again, with the new one."""
    assert shop.approve("m/1.json") == 0
    shop.carry_away("targets")
    assert shop.repository.change_root(replace_key("targets", shop)) == 0
    assert shop.node.manifest("m/1.json") is not None
    assert versions(shop.node) == (2, 3)


def work(place: Path, at: int) -> None:
    """Approves, replaces two keys, renews: killed at a point, before or after a file changes its name or goes."""
    shop = Shop.__new__(Shop)
    shop.place, shop.now_s = place, time.time()
    shop.repository = shop.open()
    left = [at]

    def point() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hung(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            point()
            done = real(*args, **more)
            point()
            return done

        return call

    for name in ("replace", "unlink"):
        setattr(os, name, hung(name))
    shop.approve("m/2.json")
    for role in ("targets", "root"):
        shop.repository.change_root(replace_key(role, shop))
    shop.now_s += 60 * DAY_S
    shop.repository.settle()


@pytest.mark.timeout(300)
def test_a_kill_at_any_point_leaves_a_whole_repository(shop: Shop) -> None:
    """At each step of each change: nodes go on, no version decreases, and the next start finishes it.

    One folder goes through all of it again and again, so each round starts from what the kill before left.
    """
    assert shop.approve("m/1.json") == 0
    seen = shop.node.refresh()
    at, code = 0, 1
    while code:
        at += 1
        process = FORK.Process(target=work, args=(shop.place, at))
        process.start()
        process.join(60)
        code = process.exitcode or 0
        assert code in (0, -signal.SIGKILL), code
        for _ in ("as it was left", "after the next start"):
            now = shop.node.refresh()
            assert all(now[role] >= seen[role] for role in seen), (at, seen, now)
            seen = now
            assert shop.node.manifest("m/1.json") is not None, at
            shop.open().settle()
    assert at > 20
