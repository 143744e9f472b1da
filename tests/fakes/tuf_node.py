"""A node's view of a folder of releases: python-tuf's client, reading the files as they lie there."""

from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

URL = "http://releases/"


class Files(FetcherInterface):
    """Answers with the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        file = self._folder / url.removeprefix(URL)
        if not file.is_file():
            raise DownloadHTTPError(f"no {file}", 404)
        return iter([file.read_bytes()])


class TufNode:
    """A client that trusts one root and keeps what it has seen."""

    def __init__(self, place: Path, folder: Path, root: bytes) -> None:
        self.place, self.folder = place, folder
        place.mkdir(exist_ok=True)
        self._root = root

    def refresh(self) -> dict[str, int]:
        """Takes in what is newest; returns the versions that it holds then.

        Raises:
            tuf.api.exceptions.RepositoryError: something in the folder is not right.
        """
        updater = self._updater()
        updater.refresh()
        trusted = updater._trusted_set
        return {
            "root": trusted.root.version, "targets": trusted.targets.version, "snapshot": trusted.snapshot.version,
            "timestamp": trusted.timestamp.version,
        }  # fmt: skip

    def manifest(self, path: str) -> bytes | None:
        """A target, fetched and verified; None when it is not approved."""
        updater = self._updater()
        target = updater.get_targetinfo(path)
        return None if target is None else Path(updater.download_target(target)).read_bytes()

    def _updater(self) -> Updater:
        targets = self.place / "targets"
        targets.mkdir(exist_ok=True)
        has_root = (self.place / "root.json").exists()
        return Updater(
            str(self.place), f"{URL}metadata", str(targets), f"{URL}targets", Files(self.folder),
            bootstrap=None if has_root else self._root,
        )  # fmt: skip
