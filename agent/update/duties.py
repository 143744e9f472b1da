"""Does what is due for an update: one method for each state, each of which may be done again after it was cut off.

Files on their way are in a folder of their own, named by release and digest, so that a restart finds them again. The
models folder has whole and checked files only: they come there by one rename.
"""

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from agent import machine
from agent.activation import Activation
from agent.catalog import Catalog
from agent.config import Config
from agent.desired import Activate, Wish
from agent.errors import AgentError, EngineError, ModelError, NoSpaceError
from agent.models import model_folder, release_file
from agent.store.releases import Releases
from agent.update.admission import Room, obstacle
from agent.update.collector import Collector
from agent.update.depot import Depot
from agent.update.errors import UpdateFailed, UpdateRefused, UpdateTroubled
from agent.update.gate import Verdict
from agent.update.slots import MODEL
from agent.update.transitions import State
from agent.update.workflow import Done, Failed, Outcome, Refused, Troubled, Work
from contract import errors
from contract.release import Release

FOLDER = "update"


class Gate(Protocol):
    """Lets a release show what it can."""

    async def judge(self, release: Release, file: Path) -> tuple[Verdict, dict[str, Any]]:
        """The verdict, and what is told of it. Raises what `agent.update.errors` has."""


class Duties:
    """The work of one node."""

    def __init__(
        self,
        config: Config,
        *,
        depot: Depot,
        releases: Releases,
        models: Catalog,
        activation: Activation,
        gating: Gate,
        collector: Collector,
        wish_with: Callable[[str, str | None], Wish],
    ) -> None:
        """`wish_with` is what is in force when a slot has a release."""
        self._config = config
        self._depot = depot
        self._releases = releases
        self._models = models
        self._activation = activation
        self._gating = gating
        self._collector = collector
        self._wish_with = wish_with

    async def do(self, slot: str, work: Work, on_progress: Callable[[float], None]) -> Outcome:
        """Does a piece of work; tells how it ended."""
        try:
            return await self._do(slot, work, on_progress)
        except (UpdateRefused, NoSpaceError) as error:
            return Refused(str(error))
        except UpdateFailed as error:
            return Failed(str(error))
        except UpdateTroubled as error:
            return Troubled(str(error), error.after_ms)
        except EngineError as error:
            # What cannot run will not run in a minute; what was good before has every chance.
            return Failed(str(error)) if work.state is State.SWITCHING else Troubled(str(error))
        except AgentError as error:
            return Troubled(str(error))
        except errors.Refused as no:
            return Refused(no.message)
        except OSError as error:
            return Troubled(f"cannot go on with {work.release}: {error}; check the state directory")

    async def _do(self, slot: str, work: Work, on_progress: Callable[[float], None]) -> Outcome:
        if work.state in (State.SWITCHING, State.RESTORING):
            await self._switch(slot, work)
            return Done()
        if work.release is None or self._is_here(slot, work.release):
            return Done()
        if work.state is State.CHECKING:
            await self._check(work.release)
            return Done()
        release = self._release(work.release)
        file = self.file_of(release)
        match work.state:
            case State.ADMITTING:
                await self._admit(slot, release, file)
            case State.FETCHING:
                file.parent.mkdir(parents=True, exist_ok=True)
                await self._depot.fetch(release, file, on_progress)
            case State.ASSEMBLING:
                await self._depot.finish(release, file)
            case State.GATING:
                verdict, told = await self._gating.judge(release, file)
                if not verdict.passed:
                    file.unlink(missing_ok=True)  # it is judged, and may be gigabytes
                    return Refused(f"cannot serve {work.release}: {'; '.join(verdict.reasons)}", told)
                return Done(told)
        return Done()

    def file_of(self, release: Release) -> Path:
        """Where a release is while it is on its way."""
        return self._config.state_dir / FOLDER / f"{release.reference}.{release.file.sha256}"

    async def _check(self, reference: str) -> None:
        release = await self._depot.check(reference)
        if release.reference != reference:
            raise UpdateFailed(f"cannot take {reference}: its manifest is that of {release.reference}")
        await self._releases.put(release)

    async def _admit(self, slot: str, release: Release, file: Path) -> None:
        await self._collector.make_room(release.file.bytes)
        default = self._models.default
        room = Room(
            disk_bytes=shutil.disk_usage(self._config.state_dir).free + _disk_bytes(file),
            memory_bytes=self._models.budget_bytes,
            base_sha256=default.model.sha256 if default else None,
            architecture=default.model.base.architecture if default else None,
            machine=platform.machine(),
            features=machine.features(),
        )
        if why := obstacle(release, "model" if slot == MODEL else "adapter", room):
            raise UpdateRefused(why)

    async def _switch(self, slot: str, work: Work) -> None:
        """Puts the file where it is served from, and lets it serve. Both may have happened before."""
        if work.release is not None and not self._is_here(slot, work.release):
            if work.state is State.RESTORING:
                raise UpdateFailed(f"cannot go back to {work.release}: it is not on this node any more")
            await self._install(slot, self._release(work.release))
        wish = self._wish_with(slot, work.release)
        model = wish.model or self._activation.present.configured_model
        if slot == MODEL and model is None:
            raise UpdateFailed("cannot go back to the configured model: there is none")
        await self._activation.apply(Activate(model, wish.adapters))

    async def _install(self, slot: str, release: Release) -> None:
        file = self.file_of(release)
        if slot != MODEL:
            await self._models.adapters.install(file, release.reference, release.base_sha256 or "")
            return
        folder = model_folder(self._config)
        folder.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        file.replace(release_file(folder, release.reference, release.file.sha256))
        for changed in (folder, file.parent):
            _sync(changed)
        await self._models.look()

    def _is_here(self, slot: str, reference: str) -> bool:
        present = self._activation.present
        return reference in (present.models if slot == MODEL else present.adapters)

    def _release(self, reference: str) -> Release:
        release = self._releases.find(reference)
        if release is None:
            raise ModelError(f"cannot go on with {reference}: its manifest is gone from the database")
        return release


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _disk_bytes(file: Path) -> int:
    """What a file that is on its way has of the disk already."""
    return file.stat().st_blocks * 512 if file.exists() else 0
