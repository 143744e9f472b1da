"""Removes releases that nobody needs: files of models, adapters in the store, and what never became either.

What serves, what would be gone back to, what is on its way and what is pinned stays, and so does every file that no
release has brought. The rest stays while there is room: it would have to be fetched again.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from agent.catalog import Catalog
from agent.config import Config
from agent.memory import MIB
from agent.models import model_folder, release_file
from agent.store.database import RESERVE_BYTES
from agent.store.releases import Kept, Releases

log = structlog.get_logger()


class Stored(Struct, frozen=True):
    """A file of a release; `held` ones stay."""

    reference: str
    bytes: int
    held: bool


def choose(files: Sequence[Stored], need_bytes: int) -> list[str]:
    """Which releases to remove to free so many bytes: the oldest first, none that is held, and all that may go when
    that is not enough. Pure.
    """
    chosen: list[str] = []
    for file in files:
        if need_bytes <= 0:
            break
        if not file.held:
            chosen.append(file.reference)
            need_bytes -= file.bytes
    return chosen


class Collector:
    """Keeps the state directory free of what is not needed."""

    def __init__(self, config: Config, releases: Releases, models: Catalog, needed: Callable[[], set[str]]) -> None:
        """`needed` are references of releases that serve, would be gone back to, or are on their way."""
        self._config = config
        self._releases = releases
        self._models = models
        self._needed = needed

    async def make_room(self, num_bytes: int) -> None:
        """Removes models until so many bytes fit on the disk and into the budget, or nothing more may go.

        Raises:
            StoreError: the database cannot be used.
        """
        needed = self._needed()
        stored = [
            Stored(kept.release.reference, kept.release.file.bytes, kept.pinned or kept.release.reference in needed)
            for kept in self._releases.all()
            if kept.release.kind == "model" and self._file(kept).exists()
        ]
        missing = num_bytes + RESERVE_BYTES - shutil.disk_usage(self._config.state_dir).free
        if self._config.store.models_mib:
            budget = self._config.store.models_mib * MIB
            missing = max(missing, sum(file.bytes for file in stored) + num_bytes - budget)
        await self._remove(choose(stored, missing))

    async def sweep(self, folder: Path) -> None:
        """Removes what is left in the `folder` of files on their way, and manifests of releases that are gone.

        Raises:
            StoreError: the database cannot be used.
        """
        needed = self._needed()
        coming = {f"{kept.release.reference}.{kept.release.file.sha256}" for kept in self._releases.all()
                  if kept.release.reference in needed}  # fmt: skip
        _clear(folder, coming)
        here = {entry.label for entry in self._models.adapters.all()}
        gone = [
            kept.release.reference
            for kept in self._releases.all()
            if kept.release.reference not in needed | here and not self._file(kept).exists()
        ]
        if gone:
            await self._releases.forget(gone)

    async def _remove(self, references: list[str]) -> None:
        for kept in self._releases.all():
            if kept.release.reference in references:
                self._file(kept).unlink(missing_ok=True)
                log.info("release removed", release=kept.release.reference, bytes=kept.release.file.bytes)
        if references:
            await self._releases.forget(references)
            await self._models.look()

    def _file(self, kept: Kept) -> Path:
        return release_file(model_folder(self._config), kept.release.reference, kept.release.file.sha256)


def _clear(folder: Path, keep: set[str]) -> None:
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in keep:
            file.unlink(missing_ok=True)
