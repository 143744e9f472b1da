"""An update of a node without engines in a process of its own, which may be killed at any system call.

python -m tests.fakes.update_change STATE_DIR DEPOT install|rollback: goes on with what an earlier run began, and prints
what serves in the end.
"""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

from agent.activation import Activation
from agent.catalog import Catalog
from agent.config import parse_config
from agent.desired import Wish
from agent.settings import Settings
from agent.store.database import Database
from agent.store.facts import Facts
from agent.store.releases import Releases
from agent.update.collector import Collector
from agent.update.duties import FOLDER, Duties
from agent.update.gate import Verdict
from agent.update.slots import MODEL
from agent.update.updater import Updater
from tests.fakes.folder_depot import FolderDepot


class NoEngines(Catalog):
    """Models that are known and never run."""

    async def change_default(self, label: str) -> None:
        """At once."""
        self.prefer(label)


class OpenGate:
    """Lets everything pass."""

    async def judge(self, *_: object) -> tuple[Verdict, dict[str, Any]]:
        """Good."""
        return Verdict(True), {"passed": True}


class Scene:
    """A node."""

    def __init__(self, state_dir: Path, depot: Path) -> None:
        config = parse_config(f'[node]\nstate_dir = "{state_dir}"\n[model]\nfile = "{state_dir}/base.gguf"', "it", {})
        self.database = Database(state_dir, repair=False)
        facts, releases = Facts(self.database), Releases(self.database)
        self.models = NoEngines(config, facts)
        self.activation = Activation(self.models, Settings(config, {}))
        self._folder = config.state_dir / FOLDER
        self._collector = Collector(config, releases, self.models, lambda: self.updater.needed)
        self.stored = asyncio.Event()
        duties = Duties(
            config,
            depot=FolderDepot(depot),
            releases=releases,
            models=self.models,
            activation=self.activation,
            gating=OpenGate(),
            collector=self._collector,
            wish_with=lambda slot, release: self.updater.wish_with(slot, release),  # noqa: PLW0108  # it is made below
        )
        self.updater = Updater(
            facts,
            do=duties.do,
            present=lambda: self.activation.present,
            running=lambda: self.activation.running,
            on_change=lambda: None,
            on_end=self._ended,
            on_event=lambda _, __: None,
        )

    async def begin(self) -> None:
        """As a daemon begins."""
        await self.models.look()
        await self.updater.start()
        self.activation.restore(self.updater.in_force(Wish()))

    async def _ended(self) -> None:
        await self._collector.sweep(self._folder)
        self.stored.set()

    async def end(self) -> str:
        """Runs until nothing is under way; returns what serves."""
        running = asyncio.create_task(self.updater.run())
        await self.stored.wait()
        while not all(update["state"] in ENDS for update in self.updater.describe().values()):
            self.stored.clear()
            await self.stored.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await self.models.stop()
        self.database.close()
        default = self.models.default
        return default.model.label if default else "none"


ENDS = ("confirmed", "rolled_back", "failed", "refused", "idle")


async def main() -> None:
    """Makes the change."""
    scene = Scene(Path(sys.argv[1]), Path(sys.argv[2]))
    await scene.begin()
    if sys.argv[3] == "install":
        scene.updater.follow(Wish(rev=1, model="m@2"))
    elif scene.updater.describe()[MODEL]["state"] == "confirmed":
        scene.updater.roll_back()
    sys.stdout.write(await scene.end())


if __name__ == "__main__":
    asyncio.run(main())
