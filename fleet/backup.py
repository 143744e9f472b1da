"""Backup of a controller's folder, and its restoration.

A restored database knows neither what was wished since the backup, nor which revisions that got. So a restored
controller counts on from the seconds since 1970: more than any revision that was given out, because nothing is
wished of one node every second. All documents are made anew above that, before anything is published.

What is not in a backup: what the broker has queued, the objects of releases (they are named by their digests and lie
elsewhere too), and a database on a PostgreSQL server, which has its own tools for that.
"""

import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from fleet.controller import now_ms
from fleet.database.store import open_database
from fleet.errors import FolderError
from fleet.folder import DATABASE_FILE, FLOOR_FILE, Folder, open_folder, replace_private, sync_folder, write_private
from fleet.inventory import Inventory
from fleet.mosquitto import CONFIG_FILE, configuration
from fleet.steering import Steering

NAME = "shoal-{fleet}-{at}.tar.gz"
LEFT_OUT = {
    f"{DATABASE_FILE}-wal",
    f"{DATABASE_FILE}-shm",
    DATABASE_FILE,
    FLOOR_FILE,
    "serve.lock",
    "broker/data",
    "releases/objects",
    "uploads",
}


def back_up(folder: Folder, into: Path, keep: int) -> Path:
    """Writes an archive into a folder; works while the controller serves. Keeps the newest `keep` of this fleet.

    Raises:
        FolderError: something cannot be read or written.
    """
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    target = into / NAME.format(fleet=folder.fleet, at=at)
    fresh = target.with_name(f".{target.name}")
    try:
        into.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh.unlink(missing_ok=True)
        write_private(fresh, b"")
        with (
            tempfile.TemporaryDirectory(dir=into, prefix=".database-") as place,
            tarfile.open(fresh, "w:gz") as archive,
        ):
            for path, name in _members(folder, Path(place)):
                with suppress(FileNotFoundError):  # it was on its way to another name
                    archive.add(path, name, recursive=False)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(target)
        sync_folder(into)
        # Not those of a fleet whose id begins alike.
        for old in sorted(into.glob(NAME.format(fleet=folder.fleet, at="????????T??????Z")))[:-keep]:
            old.unlink()
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise FolderError(f"cannot write a backup to {into}: {error}; name a folder with enough space") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target


def restore(archive: Path, path: Path) -> Folder:
    """Makes a controller's folder from a backup, as a whole or not at all.

    Raises:
        FolderError: it is no backup, or something is in the folder's place.
    """
    path = path.resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FolderError(f"cannot restore to {path}: something is there; move it away, or name another folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
            fresh = Path(place) / "folder"
            _fill(fresh, path, archive)
            if path.exists():
                path.rmdir()
            fresh.rename(path)
        sync_folder(path.parent)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise FolderError(f"cannot restore {archive}: {error}; give a file that `fleet backup` wrote") from error
    return open_folder(path)


def _fill(fresh: Path, final: Path, archive: Path) -> None:
    """Writes all files to `fresh`, for a folder that will be `final`."""
    fresh.mkdir(mode=0o700)
    with tarfile.open(archive, "r:gz") as found:
        for member in found:
            _extract(found, member, fresh)
    (fresh / "broker/data").mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(fresh / FLOOR_FILE, f"{int(time.time())}\n".encode())
    restored = open_folder(fresh)
    _name_folder(fresh / "broker" / CONFIG_FILE, final / "broker", restored)
    _wish_again(restored)
    for file in fresh.glob(f"{DATABASE_FILE}*"):
        file.chmod(0o600)


def _members(folder: Folder, place: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.path.rglob("*")):
        name = str(path.relative_to(folder.path))
        if not any(name == left or name.startswith(f"{left}/") for left in LEFT_OUT):
            yield path, name
    if not folder.settings.database.url:
        copy = place / DATABASE_FILE
        # SQLite's own copy: one state of the database, whatever is written meanwhile.
        with closing(sqlite3.connect(folder.path / DATABASE_FILE)) as source, closing(sqlite3.connect(copy)) as out:
            source.backup(out)
        yield copy, DATABASE_FILE


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """One file or folder, for its owner alone. Not by the library: older ones follow links out of the folder."""
    target = (into / member.name).resolve()
    if not target.is_relative_to(into.resolve()):
        raise FolderError(f"cannot restore {archive.name!s}: {member.name!r} would lie outside of the folder")
    if member.isdir():
        target.mkdir(mode=member.mode & 0o755, parents=True, exist_ok=True)
    elif content := archive.extractfile(member):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(target, content.read())
        target.chmod(member.mode & 0o755)  # what is below releases/ is for everybody


def _name_folder(file: Path, place: Path, restored: Folder) -> None:
    """The broker's configuration names its folder; one that lies elsewhere now gets it as `fleet init` makes it."""
    if f"{place}/" not in file.read_text("utf-8"):
        replace_private(file, configuration(place, restored.settings.broker).encode())


def _wish_again(folder: Folder) -> None:
    """Gives every document and policy a revision that was never given out."""
    database = open_database(folder.database_url)
    try:
        inventory = Inventory(database, now_ms, folder.revision_floor)
        inventory.load()
        Steering(database, inventory, folder.signing_keys(), lambda *_: False, now_ms, lambda *_: True).make_anew(
            "restore"
        )
    finally:
        database.close()
