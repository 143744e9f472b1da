"""Where a node's releases come from, put together: the delivery, and the neighbours when it is part of a site."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from agent.catalog import Catalog
from agent.config import Config
from agent.events import Events
from agent.identity import PEM_FILE, identity_folder
from agent.link import Link
from agent.renewal import Renewal
from agent.settings import Settings
from agent.store.releases import Releases
from agent.update.delivery import FOLDER, Delivery
from agent.update.errand import Neighbours
from agent.update.swarm import Swarm
from contract import topics
from contract.release import Release

LOOK_S: Final = 30  # settings, the certificate and the neighbours may have changed


class Supplies:
    """The parts, which know nothing of each other."""

    def __init__(
        self,
        config: Config,
        *,
        renewal: Renewal,
        settings: Settings,
        releases: Releases,
        models: Catalog,
        link: Callable[[], Link],
        events: Events,
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._node, self._fleet = config.node.id, config.node.fleet
        self._releases = releases
        self._models = models
        self._link = link
        self._background = background
        identity = identity_folder(config.state_dir)
        self.delivery = Delivery(
            config.state_dir / FOLDER,
            identity,
            identity=lambda: renewal.identity,
            settings=lambda: settings.updates,
            clock=renewal.clock,
            held=self._held,
            on_alert=events.alert,
            neighbours=self._neighbours,
            on_lots=self._look_soon,
        )
        self._swarm: Swarm | None = None
        if config.node.site and renewal.identity is not None:
            self._swarm = Swarm(
                self._node,
                config.node.site,
                pem_file=identity / PEM_FILE,
                broker_host=config.broker.host,
                settings=lambda: settings.updates,
                lots=lambda: self.delivery.lots,
                publish=self._publish,
                on_change=self._others_changed,
            )

    @property
    def filters(self) -> list[str]:
        """What a connection subscribes to for this."""
        return [topics.NodeHave.filter(self._fleet)] if self._swarm else []

    def hear(self, topic: topics.NodeHave, payload: bytes) -> None:
        """A node says what it has."""
        if self._swarm is not None:
            self._swarm.take(topic.node, payload)

    def connected(self) -> None:
        """The broker is there, perhaps another one."""
        if self._swarm is not None:
            self._swarm.connected()

    async def look(self) -> None:
        """Hands out what is to be handed out. Called every `LOOK_S`."""
        if self._swarm is not None:
            await self._swarm.look()

    def _held(self) -> list[tuple[Release, Path]]:
        files = {(file.label, file.sha256): file.path for file in self._models.files}
        releases = [kept.release for kept in self._releases.all()]
        found = [(release, files.get((release.reference, release.file.sha256))) for release in releases]
        return [(release, path) for release, path in found if path is not None]

    def _neighbours(self, file: str) -> Neighbours | None:
        return self._swarm.neighbours(file) if self._swarm else None

    def _others_changed(self) -> None:
        self.delivery.neighbours_changed()
        self._look_soon()

    def _look_soon(self) -> None:
        self._background(self.look())

    def _publish(self, payload: bytes) -> None:
        link = self._link()
        if link.connected:
            link.publish(topics.NodeHave(self._node).path(self._fleet), payload, qos=0, retain=True)
