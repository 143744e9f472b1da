"""The errand of checking: asks the sources for metadata until one has what can be trusted, then for the manifest."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.update.errand import Check, Ended, Poisoned, Said, manifest_file
from agent.update.errors import UpdateFailed, UpdateRefused, UpdateTroubled
from agent.update.local_origin import LocalOrigin
from agent.update.origin import Connection, Origin
from agent.update.reach import origins_of
from agent.update.reader import Busy, Expired, Reader, SourceError, Unreachable, Untrue
from agent.update.record import Record
from agent.update.trust import Trust
from contract.release import BadRelease, Release, decode_release, target_path

METADATA: Final = "metadata"


def check(errand: Check, record: Record, say: Callable[[Said], None]) -> Ended:
    """Does it. The manifest is then at `errand.manifest_file`.

    Raises:
        UpdateRefused, UpdateFailed, UpdateTroubled: there is none to be trusted (now).
        StoreError: what is trusted cannot be noted.
    """
    said, expired, after_ms = [], False, 0
    for origin in origins_of(errand.link):
        try:
            with Server(origin) as server:
                approve(errand, server, record)
            return Ended("done")
        except SourceError as error:
            said.append(f"{origin.url}: {error}")
            expired |= isinstance(error, Expired)
            after_ms = error.after_ms if isinstance(error, Busy) else after_ms
            if isinstance(error, Untrue) and not isinstance(error, Expired):
                say(Poisoned(origin.url, str(error)))
        except OSError as error:
            raise UpdateTroubled(f"cannot keep metadata in {errand.folder}: {error}; check space and rights") from error
    why = f"cannot check {errand.reference}: {'; '.join(said) or 'no source is configured'}"
    return Ended("expired" if expired else "troubled", why, after_ms)


def approve(errand: Check, reader: Reader, record: Record) -> Release:
    """The manifest of the release, which the newest metadata approves. Kept, and so are the metadata.

    Raises:
        UpdateRefused: nobody approved it.
        UpdateFailed: its manifest is none.
        SourceError: the reader's metadata or manifest did not come or cannot be trusted.
        StoreError, OSError: they cannot be kept.
    """
    folder = Path(errand.folder)
    file = manifest_file(folder, errand.reference)
    trust = Trust(folder / METADATA, Path(errand.root_file).read_bytes(), reader, record, errand.now_ms)
    target = trust.target(target_path(errand.reference))
    if target is None:
        raise UpdateRefused(
            f"cannot use {errand.reference}: it is not among the approved releases; publish and sign it"
        )
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        release = decode_release(trust.fetch(target, file))
    except BadRelease as error:
        raise UpdateFailed(f"cannot use {errand.reference}: {error}") from error
    told = (release.reference, release.kind)
    approved = (errand.reference, (target.custom or {}).get("kind", release.kind))
    if told != approved:
        raise UpdateFailed(f"cannot use {errand.reference}: its manifest is of {told[0]} ({told[1]}); publish it anew")
    return release


class Server:
    """An origin, for who waits for each file."""

    def __init__(self, origin: Origin | LocalOrigin) -> None:
        self._origin = origin
        self._runner = asyncio.Runner()
        self._connection: Connection | LocalOrigin | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.close()

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file."""
        return self._runner.run(self._read(path, max_bytes))

    async def _read(self, path: str, max_bytes: int) -> bytes:
        if self._connection is not None and self._connection.is_open:
            with contextlib.suppress(Unreachable):  # servers close what was idle
                return await self._connection.whole(path, max_bytes)
        self._connection = await self._origin.open()
        return await self._connection.whole(path, max_bytes)
