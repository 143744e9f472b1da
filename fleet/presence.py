"""The controller at the broker: it says that it is there, and comes back when the connection was lost."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable

import msgspec
import structlog

from contract.presence import ControllerState
from contract.topics import ControllerStatus
from fleet.broker_url import BrokerUrl
from fleet.errors import BrokerError
from fleet.folder import Folder
from fleet.link import Link, Presence, open_link

log = structlog.get_logger()

PAUSE_S = 5.0


class Attendance:
    """Keeps the controller's link to the broker."""

    def __init__(self, folder: Folder, now_ms: Callable[[], int]) -> None:
        settings = folder.settings.broker
        self._broker = BrokerUrl(settings.host, settings.nodes_port, tls=True)
        self._tls = ssl.create_default_context(cadata=folder.authority("root").certificate_pem.decode())
        self._tls.load_cert_chain(*folder.key_pair("mqtt"))
        self._topic = ControllerStatus().path(folder.fleet)
        self._now_ms = now_ms
        self._session = 0
        self._link: Link | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker hears us at this moment."""
        return self._link is not None and self._link.connected

    async def begin(self) -> None:
        """Connects, for as long as it takes. From then on the link connects again by itself."""
        said = ""
        while self._link is None:
            try:
                self._link = await asyncio.to_thread(
                    open_link, self._broker, self._tls, new_presence=self._new_presence
                )
                log.info("connected to the broker", broker=self._broker.address)
            except BrokerError as error:
                if str(error) != said:  # once per reason, not every few seconds
                    said = str(error)
                    log.warning("no connection to the broker; trying again", why=said)
                await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def end(self) -> None:
        """Says goodbye."""
        if self._link is not None:
            await asyncio.to_thread(self._leave, self._link)

    def _leave(self, link: Link) -> None:
        if link.connected:
            state = ControllerState("offline", self._session, self._now_ms())
            with contextlib.suppress(BrokerError):
                link.publish(self._topic, msgspec.json.encode(state), retain=True)
        link.close()

    def _new_presence(self) -> Presence:
        # From the clock, so that it grows also across restarts (rule 5 of the contract).
        self._session = max(self._session + 1, self._now_ms())
        here = ControllerState("online", self._session, self._now_ms())
        lost = ControllerState("lost", self._session, self._now_ms())
        return Presence(self._topic, msgspec.json.encode(here), msgspec.json.encode(lost))
