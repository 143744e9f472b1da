"""`fleet backup` and `fleet restore`: nothing that was given out is given out again."""

import tarfile
from pathlib import Path

import pytest

from fleet.api.steering import WishChange
from fleet.backup import back_up, restore
from fleet.beginning import begin
from fleet.controller import now_ms
from fleet.database.store import open_database
from fleet.errors import FolderError
from fleet.folder import Folder
from fleet.inventory import Inventory
from fleet.steering import Steering
from tests.fakes.controller import settings


def wish(folder: Folder, node: str, level: str) -> int:
    """Wishes something of a node, as a controller that starts and ends for it; returns the revision."""
    database = open_database(folder.database_url)
    inventory = Inventory(database, now_ms, folder.revision_floor)
    inventory.load()
    inventory.node(node)
    steering = Steering(database, inventory, folder.signing_keys(), lambda *_: False, now_ms, lambda *_: True)
    (wished,) = steering.wish([node], WishChange(settings={"log.level": level}), "test")
    database.close()
    return wished.rev


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A controller's folder."""
    made = begin(tmp_path / "ctl", settings())
    assert made is not None
    return made


def test_a_restored_controller_counts_on(folder: Folder, tmp_path: Path) -> None:
    """What was wished after the backup is lost, its revisions are not: also of a node that was unknown then."""
    wish(folder, "n1", "debug")
    archive = back_up(folder, tmp_path / "backups", keep=2)
    given_out = max(wish(folder, node, level) for node in ("n1", "n2") for level in ("info", "warning", "error"))
    restored = restore(archive, tmp_path / "again")
    database = open_database(restored.database_url)
    inventory = Inventory(database, now_ms, restored.revision_floor)
    inventory.load()
    held = inventory.wishes.held("n1")
    database.close()
    assert held is not None
    assert held.rev > given_out
    assert held.document.settings == {"log.level": "debug"}
    assert wish(restored, "n2", "info") > given_out


def test_the_whole_folder_comes_back(folder: Folder, tmp_path: Path) -> None:
    """Keys are the same, for their owner alone; the broker's configuration names the new place."""
    restored = restore(back_up(folder, tmp_path / "backups", keep=2), tmp_path / "again")
    for name in ("authority/root.key", "controller/signing.key", "controller/operator.token", "broker/node.acl"):
        assert (restored.path / name).read_bytes() == (folder.path / name).read_bytes()
    modes = {str(path.relative_to(restored.path)): path.stat().st_mode for path in restored.path.rglob("*")}
    assert all(mode & 0o077 == 0 for name, mode in modes.items() if not name.startswith("releases"))
    assert str(folder.path) not in (restored.path / "broker/mosquitto.conf").read_text()
    with pytest.raises(FolderError, match="something is there"):
        restore(tmp_path / "any", restored.path)


def test_only_the_newest_archives_stay(folder: Folder, tmp_path: Path) -> None:
    """Other files in the folder are left alone, those of a fleet whose id begins alike too."""
    place = tmp_path / "backups"
    place.mkdir()
    for year in ("2024", "2025"):
        (place / f"shoal-home-{year}0101T000000Z.tar.gz").write_bytes(b"")
    others = {"mine.tar.gz", "shoal-home-2-20240101T000000Z.tar.gz"}
    for name in others:
        (place / name).write_bytes(b"")
    made = back_up(folder, place, keep=2)
    assert {path.name for path in place.iterdir()} == {made.name, "shoal-home-20250101T000000Z.tar.gz"} | others
    assert made.stat().st_mode & 0o077 == 0


def test_what_is_no_backup_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    """Neither a file that ends early nor one that would write elsewhere."""
    torn = tmp_path / "torn.tar.gz"
    torn.write_bytes(back_up(folder, tmp_path / "backups", keep=1).read_bytes()[:2000])
    stranger = tmp_path / "stranger.tar.gz"
    (tmp_path / "x").write_bytes(b"x")
    with tarfile.open(stranger, "w:gz") as archive:
        archive.add(tmp_path / "x", "../outside")
    for bad in (torn, stranger):
        with pytest.raises(FolderError, match="cannot restore"):
            restore(bad, tmp_path / "again" / "ctl")
        assert not (tmp_path / "again" / "ctl").exists()
        assert list((tmp_path / "again").iterdir()) == []
