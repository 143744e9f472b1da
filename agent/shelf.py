"""The model files of this node, followed while they come, change and go."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.errors import ModelError, StoreError
from agent.models import (
    BaseFile,
    Manner,
    ModelFile,
    as_configured,
    configured_file,
    find_files,
    identify_model,
    mark_of,
    model_folder,
)
from agent.routing import Candidate, choose_default
from agent.store.facts import Facts

log = structlog.get_logger()

RETRY_S = 60.0  # a file that cannot be used is tried again: what was missing (a right, space) may be there now
DEFAULT_FACT = "default-model"


class Shelf:
    """Which model files there are, what they are, and which of them is the default.

    `files` has those that can be used, by path; `problems` says why others cannot. `configured` is the default that the
    node's own configuration means.
    """

    def __init__(self, config: Config, facts: Facts, manner_of: Callable[[str], Manner] = lambda _: Manner()) -> None:
        """`manner_of` knows by `name@version` how models of releases answer."""
        self._config = config
        self._facts = facts
        self._manner_of = manner_of
        self._seen: dict[Path, str] = {}  # marks at the last look
        self._taken: dict[Path, str] = {}  # marks of what `_raw` and `problems` are about
        self._raw: dict[Path, ModelFile] = {}
        self._retry_at = 0.0
        self.files: dict[Path, ModelFile] = {}
        self.problems: dict[Path, str] = {}
        self._preferred: str | None = None
        self.configured: Path | None = None
        self.default: Path | None = None
        self._obstacle = ""

    @property
    def problem(self) -> str:
        """Why there is no default, when there should be one."""
        return "" if self.default else self._obstacle

    def prefer(self, label: str | None) -> None:
        """From now on this model is the default while it is here; None: the configured one."""
        self._preferred = label
        self._decide()

    async def look(self, *, at_once: bool = False) -> bool:
        """Takes in what has changed; returns whether anything did.

        A file counts when two looks in a row found it the same, because one that is being copied grows; with
        `at_once` it counts as it is.
        """
        found = {path: _mark(path) for path in self._list()}
        steady = {path: mark for path, mark in found.items() if at_once or self._seen.get(path) == mark}
        self._seen = found
        if self.problems and time.monotonic() > self._retry_at:
            for path in self.problems:
                self._taken.pop(path, None)
        changed = [path for path, mark in steady.items() if self._taken.get(path) != mark]
        gone = self._taken.keys() - found.keys()
        if not changed and not gone and not at_once:
            return False
        for path in gone:
            self._forget(path)
        for path in changed:
            self._taken[path] = steady[path]
            await self._identify(path)
        before = self.problem
        await self._label()
        self._decide()
        if self.problem and self.problem != before:
            log.error("no default model", why=self.problem, retry_s=RETRY_S)
        return True

    def bases(self) -> list[BaseFile]:
        """The models that adapters can be for, the default first."""
        return [
            BaseFile(file.label, file.sha256, str(path), path == self.default)
            for path, file in sorted(self.files.items(), key=lambda item: (item[0] != self.default, item[1].label))
            if file.task == "generate"
        ]

    def _list(self) -> list[Path]:
        try:
            return find_files(self._config)
        except OSError as error:
            log.error("cannot list the models", why=str(error))
            return list(self._seen)

    async def _identify(self, path: Path) -> None:
        try:
            file = await identify_model(path, self._facts)
            self._raw[path] = replace(file, manner=self._manner_of(file.label))
        except (ModelError, StoreError) as error:
            self._raw.pop(path, None)
            self._note(path, str(error))
        else:
            self.problems.pop(path, None)

    async def _label(self) -> None:
        """Finds the configured default, and gives it the name and version that are configured."""
        self.configured, self._obstacle = None, ""
        self.files = dict(self._raw)
        if self._config.model.file:
            path = configured_file(self._config)
            chosen = path if path in self.files else None
            self._obstacle = self.problems.get(path, "")
        else:
            chosen = await self._choose()
            if not self.files:
                self._obstacle = next(iter(self.problems.values()), "") or (
                    f"cannot find a model: {model_folder(self._config)} has none; set [model] file, or get the default"
                    " one with `shoal-agent models fetch`"
                )
        if chosen is None:
            return
        try:
            self.files[chosen] = as_configured(self.files[chosen], self._config.model)
        except ModelError as error:
            del self.files[chosen]
            self._obstacle = str(error)
            self._note(chosen, self._obstacle)
        else:
            self.configured = chosen

    def _decide(self) -> None:
        preferred = (path for path, file in self.files.items() if file.label == self._preferred)
        self.default = next(preferred, self.configured)

    async def _choose(self) -> Path | None:
        candidates = [Candidate(path, file.name, file.task) for path, file in self.files.items()]
        with contextlib.suppress(StoreError):  # then it is not remembered, and asked for when it matters
            remembered = self._facts.get(DEFAULT_FACT)
            chosen = choose_default(candidates, name=self._config.model.name, remembered=remembered)
            if chosen is not None and str(chosen.path) != remembered:
                await self._facts.put(DEFAULT_FACT, str(chosen.path))
            return chosen.path if chosen else None
        chosen = choose_default(candidates, name=self._config.model.name)
        return chosen.path if chosen else None

    def _forget(self, path: Path) -> None:
        for kept in (self._taken, self._raw, self.problems):
            kept.pop(path, None)

    def _note(self, path: Path, problem: str) -> None:
        if self.problems.get(path) != problem:
            log.error("model cannot be served", why=problem, retry_s=RETRY_S)
        self.problems[path] = problem
        self._retry_at = time.monotonic() + RETRY_S


def _mark(path: Path) -> str:
    """What tells the file that is there now from another, or nothing."""
    try:
        return mark_of(path)
    except OSError:
        return ""
