"""The parts of a controller that publish, on its folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet.database.identities import write_audit
from fleet.database.store import Database
from fleet.errors import FolderError
from fleet.folder import Folder, ReleasesSection, sync_folder
from fleet.releases.catalogue import Catalogue
from fleet.releases.keys import KeyRing
from fleet.releases.metadata import MetadataFiles
from fleet.releases.public_file import make_folders
from fleet.releases.repository import Repository
from fleet.releases.trust import Trust
from fleet.releases.uploads import Uploads

PRIVATE = ("keys", "pending", "uploads")


@dataclass(frozen=True)
class Publishing:
    """What is published, and how."""

    repository: Repository
    catalogue: Catalogue
    uploads: Uploads
    trust: Trust

    def tend(self) -> None:
        """Renews what is due, finishes what was interrupted, and removes what nobody wants.

        Raises:
            FolderError: a key is missing, or the folder cannot be written.
        """
        self.repository.settle()
        self.catalogue.refresh()
        self.uploads.tidy()


def open_publishing(folder: Folder, database: Database, now_ms: Callable[[], int]) -> Publishing:
    """The parts. A folder from before there were releases gets them.

    Raises:
        FolderError: the folder cannot be used.
    """
    if not folder.releases.exists():
        _begin_late(folder, now_ms)
    repository = _repository(folder.path, folder.settings.releases, now_ms)
    uploads = Uploads(folder.path / "uploads")

    def audit(actor: str, action: str, subject: str, detail: str) -> None:
        with database.write() as connection:
            write_audit(connection, now_ms(), actor, action, subject, detail)

    uploads.tidy(at_start=True)
    bases = folder.settings.releases.bases
    catalogue = Catalogue(folder.releases, repository, uploads, audit, now_ms, bases)
    return Publishing(repository, catalogue, uploads, Trust(repository, KeyRing(folder.path / "keys"), audit))


def begin_releases(path: Path, settings: ReleasesSection, now_ms: Callable[[], int]) -> None:
    """Makes keys and the first metadata, in a folder that nobody sees yet."""
    for name in PRIVATE:
        (path / name).mkdir(mode=0o700)
    for name in ("metadata", "objects", "targets"):
        make_folders(path / "releases" / name)
    _repository(path, settings, now_ms).begin()


def _begin_late(folder: Folder, now_ms: Callable[[], int]) -> None:
    """As above, beside the controller's folder, then moved into it, the releases last."""
    if (folder.path / "keys").exists():
        raise FolderError(
            f"cannot find {folder.releases}, though there are keys for it: restore it from a copy; if nothing was ever "
            f"published here, remove {folder.path / 'keys'} and start again"
        )
    fresh = folder.path / ".releases.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    begin_releases(fresh, folder.settings.releases, now_ms)
    for name in (*PRIVATE, "releases"):
        (fresh / name).replace(folder.path / name)
    sync_folder(folder.path)
    fresh.rmdir()


def _repository(path: Path, settings: ReleasesSection, now_ms: Callable[[], int]) -> Repository:
    files = MetadataFiles(path / "releases", path / "pending")
    return Repository(files, KeyRing(path / "keys"), settings, now_ms)
