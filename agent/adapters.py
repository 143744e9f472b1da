"""The adapters of this node, as the daemon sees them: what the store has, and what is dropped into a folder for it.

`{state_dir}/adapters` is a drop folder: a GGUF file that is copied there is imported under its name and then removed;
one that cannot be used stays, with its reason in the status. Commands change the store too, while the daemon runs.
"""

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from agent.adapter_import import Errand, Outcome, Terms
from agent.errors import StoreError
from agent.fitness import obstacle
from agent.models import BaseFile, mark_of
from agent.store.adapter_entries import Entry
from agent.store.adapters import AdapterStore
from contract.errors import Refused
from contract.presence import AdapterInfo
from contract.status import Status

log = structlog.get_logger()

NOTE_USES_S = 60.0
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PORTION = 256  # pieces written at once


class AdapterShelf:
    """Which adapters there are. `problems` says why files in the folder cannot be used, by path."""

    def __init__(
        self,
        state_dir: Path,
        *,
        budget_bytes: int,
        allow_unfit: bool = False,
        bases: Callable[[], list[BaseFile]] = list,
        in_use: Callable[[], set[str]] = set,
        active: Callable[[], list[str]] = list,
    ) -> None:
        """Opens the store. `bases` are the node's models; `in_use` the digests that requests need; `active` are those,
        as `name@version`, that a name alone means where there are several versions.

        Raises:
            StoreError: the state directory cannot be used.
        """
        self._state_dir = state_dir
        self._folder = state_dir / "adapters"
        self._store = AdapterStore(state_dir)
        self._budget_bytes = budget_bytes
        self._allow_unfit = allow_unfit
        self._bases = bases
        self._in_use = in_use
        self._active = active
        self._version: tuple[int, int] | None = None
        self._entries: dict[str, Entry] = {}
        self._known_as: dict[str, list[Entry]] = {}  # by name, and by name and version, the newest first
        self._has_unnamed = False
        self._seen: dict[Path, str] = {}  # marks at the last look
        self._failed: dict[Path, tuple[str, list[BaseFile]]] = {}  # what `problems` are about
        self._hits: Counter[str] = Counter()  # since they were noted
        self._noted = time.monotonic()
        self._importing: asyncio.Task[None] | None = None
        self.problems: dict[Path, str] = {}

    async def close(self) -> None:
        """Ends an import, notes what was used, and closes the store."""
        if self._importing:
            self._importing.cancel()
            await asyncio.wait([self._importing])
        await self._note_uses()
        self._store.close()

    async def look(self, *, at_once: bool = False) -> bool:
        """Takes in what has changed; returns whether anything did.

        A dropped file counts when two looks in a row found it the same, because one that is being copied grows. With
        `at_once` it counts as it is, and its import is waited for.
        """
        changed = self._look_into_folder(at_once=at_once)
        if at_once and self._importing:
            await self._importing
        if time.monotonic() - self._noted > NOTE_USES_S:
            await self._note_uses()
        try:
            return await asyncio.to_thread(self._look_into_store) or changed
        except StoreError as error:
            log.error("cannot look for adapters", why=str(error))
            return changed

    def all(self) -> list[Entry]:
        """Those that can be used, by name."""
        return list(self._entries.values())

    def cards(self, base_sha256: str) -> list[AdapterInfo]:
        """The card's part: adapters for a base."""
        fitting = [entry for entry in self.all() if self._obstacle(entry, base_sha256) is None]
        labels = [entry.label.partition("@") for entry in fitting]
        return [
            AdapterInfo(name, version, entry.sha256, base_sha256)
            for entry, (name, _, version) in zip(fitting, labels, strict=True)
        ]

    def find(self, reference: str, base_sha256: str) -> Entry:
        """The adapter that a request's `adapter` means, for a base model.

        Raises:
            Refused: 404 when there is none, 400 when it is for another base.
        """
        versions = self._known_as.get(reference, [])
        active = self._active() if len(versions) > 1 else []
        found = next((entry for entry in versions if entry.label in active), next(iter(versions), None))
        if found is None:
            here = ", ".join(entry.label for entry in self.all()) or "none"
            raise Refused(Status.NOT_FOUND, "adapter", f"cannot find adapter {reference!r}: this node has {here}")
        if why := self._obstacle(found, base_sha256):
            raise Refused(Status.INVALID, "adapter", f"cannot use adapter {reference!r} with this model: {why}")
        return found

    async def open(self, sha256: str) -> int:
        """A descriptor of an adapter's file in memory, which nobody can change any more. The caller closes it.

        Raises:
            StoreError: it is not there any more, or cannot be read.
            ModelError: it is damaged.
        """
        return await asyncio.to_thread(open_sealed, self._store, sha256)

    async def install(self, file: Path, reference: str, base_sha256: str) -> None:
        """Takes the file of a release into the store, as `name@version`; the file is gone then.

        Raises:
            StoreError: it cannot be stored, or not be used.
        """
        outcome = (await self._send([str(file)], self._bases(), reference, base_sha256))[file]
        if outcome.problem:
            raise StoreError(outcome.problem)
        await asyncio.to_thread(self._look_into_store)

    async def remove(self, reference: str) -> None:
        """Takes a release out of the store; what requests need goes when they have ended.

        Raises:
            StoreError: it is not there, or is pinned.
        """
        await asyncio.to_thread(self._store.remove, reference, in_use=self._in_use())

    def note_use(self, sha256: str) -> None:
        """A request uses an adapter."""
        self._hits[sha256] += 1

    def _obstacle(self, entry: Entry, base_sha256: str) -> str | None:
        return obstacle(entry.base_sha256, entry.scores, base_sha256, allow_unfit=self._allow_unfit)

    async def _note_uses(self) -> None:
        hits, self._hits, self._noted = self._hits, Counter(), time.monotonic()
        try:
            if hits:
                await asyncio.to_thread(self._store.note_uses, dict(hits), time.time_ns() // 1_000_000)
        except StoreError as error:  # they are for eviction, which can do without
            log.error("cannot note which adapters were used", why=str(error))

    def _look_into_store(self) -> bool:
        if self._has_unnamed:
            self._store.collect(self._in_use())
        version = self._store.version
        if version == self._version:
            return False
        before, entries = self._entries, {entry.name: entry for entry in self._store.entries()}
        self._version, self._entries = version, entries
        self._known_as = {}
        for entry in sorted(entries.values(), key=lambda entry: -entry.imported_ms):
            for known in (entry.label, entry.label.partition("@")[0]):
                self._known_as.setdefault(known, []).append(entry)
        self._has_unnamed = bool(self._store.unnamed())
        return before != entries

    def _look_into_folder(self, *, at_once: bool) -> bool:
        found = {path: _mark(path) for path in sorted(self._folder.glob("*.gguf"))}
        steady = {path: mark for path, mark in found.items() if at_once or self._seen.get(path) == mark}
        self._seen = found
        gone = self._failed.keys() - found.keys()
        for path in gone:
            del self._failed[path], self.problems[path]
        bases = self._bases()
        ready = {path: (mark, bases) for path, mark in steady.items() if self._failed.get(path) != (mark, bases)}
        if ready and (self._importing is None or self._importing.done()):
            self._importing = asyncio.create_task(self._import(ready, bases), name="import adapters")
        return bool(gone)

    async def _import(self, files: dict[Path, tuple[str, list[BaseFile]]], bases: list[BaseFile]) -> None:
        outcomes = await self._send([str(path) for path in files], bases)
        for path, about in files.items():
            outcome = outcomes[path]
            if outcome.problem:
                self._failed[path], self.problems[path] = about, outcome.problem
                log.error("adapter cannot be used", why=outcome.problem)
            else:
                self._failed.pop(path, None)
                self.problems.pop(path, None)
                log.info("adapter imported", adapter=outcome.label, evicted=outcome.evicted)

    async def _send(
        self, files: list[str], bases: list[BaseFile], reference: str | None = None, base_sha256: str | None = None
    ) -> dict[Path, Outcome]:
        """Imports files in a process of its own: it parses what others wrote."""
        errand = Errand(
            state_dir=str(self._state_dir),
            terms=Terms(bases=bases, budget_bytes=self._budget_bytes, in_use=list(self._in_use())),
            files=files,
            reference=reference,
            base_sha256=base_sha256,
        )
        said, end = b"", ""
        try:
            said, end = await _run_import(msgspec.json.encode(errand))
        except OSError as error:
            end = str(error)
        died = {
            Path(file): Outcome(file, problem=f"cannot import {file}: the process for it ended with {end}")
            for file in files
        }
        return died | {Path(outcome.file): outcome for outcome in map(_outcome, said.splitlines())}


async def _run_import(errand: bytes) -> tuple[bytes, str]:
    """What an import's process says, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.adapter_import", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        said, _ = await process.communicate(errand)
    except asyncio.CancelledError:
        process.kill()
        raise
    return said, str(process.returncode)


def open_sealed(store: AdapterStore, sha256: str) -> int:
    """An adapter as a sealed file in memory, readable only.

    Raises:
        StoreError: it is not there, or cannot be read.
        ModelError: it is damaged.
    """
    fd = os.memfd_create("adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        portion: list[bytes | memoryview] = []

        def take(piece: bytes | memoryview) -> None:
            portion.append(piece)
            if len(portion) == _PORTION:
                _write(fd, portion)

        store.read(sha256, take)
        _write(fd, portion)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        # Before Linux 6.7 a sealed file can only be mapped through a descriptor that never could write.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _write(fd: int, portion: list[bytes | memoryview]) -> None:
    if os.writev(fd, portion) != sum(map(len, portion)):
        raise StoreError("cannot hold the adapter in memory: there is no more; see [store] resident_mib")
    portion.clear()


def _outcome(line: bytes) -> Outcome:
    return msgspec.json.decode(line, type=Outcome)


def _mark(path: Path) -> str:
    try:
        return mark_of(path)
    except OSError:
        return ""
