"""The controller at the broker: it says that it is there, hears nodes, and comes back when the connection was lost."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable

import msgspec
import structlog

from contract.presence import ControllerState
from contract.topics import ControllerStatus, Topic
from fleet.broker_url import BrokerUrl
from fleet.errors import BrokerError
from fleet.folder import Folder
from fleet.link import Holding, Link, Presence, open_link
from fleet.rights import CONTROLLER, HEARD

log = structlog.get_logger()

PAUSE_S = 5.0
# Events wait for a controller that is away for so long, and no more than `most` are in its memory at once.
HOLDING = Holding(client_id=CONTROLLER, session_s=24 * 3600, most=5000)


class Attendance:
    """Keeps the controller's link to the broker."""

    def __init__(self, folder: Folder, now_ms: Callable[[], int]) -> None:
        settings = folder.settings.broker
        self._broker = BrokerUrl(settings.host, settings.nodes_port, tls=True)
        self._tls = ssl.create_default_context(cadata=folder.authority("root").certificate_pem.decode())
        self._tls.load_cert_chain(*folder.key_pair("mqtt"))
        self._fleet = folder.fleet
        self._topic = ControllerStatus().path(folder.fleet)
        self._now_ms = now_ms
        self._session = 0
        self._link: Link | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker hears us at this moment."""
        return self._link is not None and self._link.connected

    @property
    def has_begun(self) -> bool:
        """Whether there was a connection."""
        return self._link is not None

    async def begin(self) -> Link:
        """Connects and subscribes, for as long as it takes. From then on the link connects again by itself."""
        said = ""
        while self._link is None:
            try:
                self._link = await asyncio.to_thread(self._open)
                log.info("connected to the broker", broker=self._broker.address)
            except BrokerError as error:
                if str(error) != said:  # once per reason, not every few seconds
                    said = str(error)
                    log.warning("no connection to the broker; trying again", why=said)
                await asyncio.sleep(random.uniform(0, PAUSE_S))
        return self._link

    def post(self, topic: Topic, payload: bytes) -> bool:
        """Publishes without waiting. False: there is no connection now."""
        return self._link is not None and self._link.post(topic.path(self._fleet), payload, retain=topic.RETAINED)

    async def end(self) -> None:
        """Says goodbye."""
        if self._link is not None:
            await asyncio.to_thread(self._leave, self._link)

    def _open(self) -> Link:
        link = open_link(self._broker, self._tls, new_presence=self._new_presence, holding=HOLDING)
        try:
            link.subscribe({kind.filter(self._fleet): kind.QOS for kind in HEARD})
        except BrokerError:
            link.close()
            raise
        return link

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
