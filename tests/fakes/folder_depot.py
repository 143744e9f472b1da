"""A depot that is a folder: manifests by reference, and files that are copied in steps. Nothing is verified."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from agent.models import digest_of
from agent.update.errors import UpdateFailed
from contract.release import Release, decode_release, encode_release

STEPS = 4


def publish(folder: Path, release: Release, file: Path) -> None:
    """Puts a release there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / release.file.sha256).write_bytes(file.read_bytes())
    (folder / f"{release.reference}.json").write_bytes(encode_release(release))


class FolderDepot:
    """Releases of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def check(self, reference: str) -> Release:
        """The manifest as it is."""
        path = self._folder / f"{reference}.json"
        if not path.exists():
            raise UpdateFailed(f"cannot find {reference}: {self._folder} has no such release")
        return decode_release(path.read_bytes())

    async def fetch(self, release: Release, target: Path, on_progress: Callable[[float], None]) -> None:
        """Copies what is not there yet."""
        data = (self._folder / release.file.sha256).read_bytes()
        step = -(-len(data) // STEPS)
        with target.open("ab") as file:
            for start in range(file.tell(), len(data), step):
                file.write(data[start : start + step])
                file.flush()
                on_progress(min(1.0, (start + step) / len(data)))
                await asyncio.sleep(0)

    async def finish(self, release: Release, target: Path) -> None:
        """Looks at the digest."""
        if digest_of(target) != release.file.sha256:
            raise UpdateFailed(f"cannot finish {release.reference}: its file is another one")
