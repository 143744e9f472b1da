"""The adapters of this node: LoRA files in `{state_dir}/adapters`, followed while they come, change and go."""

import asyncio
from pathlib import Path

import msgspec
import structlog

from agent.errors import ModelError
from agent.models import digest_of, mark_of
from agent.weights.adapter import Adapter, check_adapter, read_adapter
from agent.weights.base_model import Base
from agent.weights.head import read_head
from contract.errors import Refused
from contract.ids import id_from
from contract.presence import AdapterInfo
from contract.status import Status

log = structlog.get_logger()

VERSION_DIGITS = 12


class AdapterFile(msgspec.Struct, frozen=True):
    """An adapter file that exists, is well formed and has this digest."""

    path: Path
    name: str
    sha256: str
    facts: Adapter

    @property
    def label(self) -> str:
        """`name@version`, as answers give it; the version is the digest's beginning."""
        return f"{self.name}@{self.sha256[:VERSION_DIGITS]}"

    def obstacle(self, base: Base) -> str | None:
        """Why it cannot be used with a base model, or None."""
        try:
            check_adapter(self.facts, base)
        except ModelError as error:
            return str(error)
        return None


class AdapterShelf:
    """Which adapters there are. `problems` says why files cannot be used, by path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, str] = {}  # marks at the last look
        self._taken: dict[Path, str] = {}  # marks of what `_files` and `problems` are about
        self._files: dict[Path, AdapterFile] = {}
        self.problems: dict[Path, str] = {}

    async def look(self, *, at_once: bool = False) -> bool:
        """Takes in what has changed; returns whether anything did.

        A file counts when two looks in a row found it the same, because one that is being copied grows; with
        `at_once` it counts as it is.
        """
        found = {path: _mark(path) for path in sorted(self._folder.glob("*.gguf"))}
        steady = {path: mark for path, mark in found.items() if at_once or self._seen.get(path) == mark}
        self._seen = found
        changed = [path for path, mark in steady.items() if self._taken.get(path) != mark]
        gone = self._taken.keys() - found.keys()
        for path in gone:
            for kept in (self._taken, self._files, self.problems):
                kept.pop(path, None)
        for path in changed:
            self._taken[path] = steady[path]
            self._files.pop(path, None)
            self.problems.pop(path, None)
            try:
                self._files[path] = await asyncio.to_thread(_examine, path)
            except (ModelError, OSError, ValueError) as error:
                self.problems[path] = str(error)
                log.error("adapter cannot be used", why=str(error))
        return bool(changed or gone)

    def all(self) -> list[AdapterFile]:
        """Those that can be used, by name."""
        return sorted(self._files.values(), key=lambda file: file.label)

    def cards(self, base_sha256: str, base: Base) -> list[AdapterInfo]:
        """The card's part: adapters for a base."""
        return [
            AdapterInfo(file.name, file.sha256[:VERSION_DIGITS], file.sha256, base_sha256)
            for file in self.all()
            if file.obstacle(base) is None
        ]

    def find(self, reference: str, base: Base) -> AdapterFile:
        """The adapter that a request's `adapter` means, for a base model.

        Raises:
            Refused: 404 when there is none, 400 when it is for another base.
        """
        named = [file for file in self.all() if reference in (file.name, file.label)]
        if not named:
            here = ", ".join(file.label for file in self.all()) or "none"
            raise Refused(Status.NOT_FOUND, "adapter", f"cannot find adapter {reference!r}: this node has {here}")
        obstacle = named[0].obstacle(base)
        if obstacle:
            raise Refused(Status.INVALID, "adapter", f"cannot use adapter {reference!r} with this model: {obstacle}")
        return named[0]


def _examine(path: Path) -> AdapterFile:
    name = id_from(path.stem, "adapter")
    # Its beginning only: somebody may have put a model here, which would not fit into the daemon's memory.
    facts = read_head(path, lambda head, size: read_adapter(head, label=f"the adapter {path}", file_bytes=size))
    return AdapterFile(path, name, digest_of(path), facts)


def _mark(path: Path) -> str:
    try:
        return mark_of(path)
    except OSError:
        return ""
