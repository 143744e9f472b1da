"""Where releases come from, as the update workflow sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from contract.release import Release


class Depot(Protocol):
    """Gives out releases that are trusted. Each call may raise what `agent.update.errors` has, and may be cancelled."""

    async def check(self, reference: str) -> Release:
        """The verified manifest of `name@version`, by the newest metadata that can be had."""

    async def fetch(self, release: Release, target: Path, on_progress: Callable[[float], None]) -> None:
        """Fills the file `target`, going on where an earlier call ended. Progress is from 0 to 1."""

    async def finish(self, release: Release, target: Path) -> None:
        """Returns when the whole file is right and on the disk."""
