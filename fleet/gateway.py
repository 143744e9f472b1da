"""Asking nodes for who comes over HTTP: many exchanges at once, over one connection to the broker.

An exchange is the one of `fleet ask`, in a thread of its own. One more thread takes what arrives from the broker and
puts it where it belongs. What is held is bounded: exchanges by `MAX_EXCHANGES`, each of them by its deadline.
"""

import asyncio
import contextlib
import queue
import ssl
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from contract.mqtt5 import Properties
from contract.requests import Request
from contract.topics import ROOT, AnswerDelta, AnswerFinal, BadTopic, NodeRequest, PoolRequest, parse
from fleet.broker_url import BrokerUrl
from fleet.errors import AnswerError, FleetError, RefusedError, UnreachableError
from fleet.exchange import Answer, Exchange, Notice
from fleet.folder import Folder
from fleet.link import ACK_S, Incoming, Link, open_link
from fleet.rights import GATEWAY

log = structlog.get_logger()

MAX_EXCHANGES = 64
# Answers wait at the broker while the connection is away.
SESSION_S = 300
LOOK_S = 0.5

Said = Answer | FleetError


class Full(FleetError):
    """As many are asking as can at once."""


class Left(FleetError):
    """Who asked does not wait for the answer any more."""


class Mailbox:
    """A link as one exchange sees it: its own messages of the connection that all share."""

    def __init__(self, link: Link, own: str) -> None:
        self._link = link
        self._own = own
        self._incoming: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._link.connected

    def subscribe(self, filters: dict[str, int]) -> None:
        """What is below the gateway's own topics is subscribed already, and it may hear nothing else."""
        if not all(name.startswith(self._own) for name in filters):
            raise RefusedError(f"cannot subscribe to {next(iter(filters))}: the gateway hears its own answers only")

    def publish(
        self, topic: str, payload: bytes, *, properties: Properties | None = None, timeout_s: float = ACK_S
    ) -> bool:
        """Publishes as the link does."""
        return self._link.publish(topic, payload, properties=properties, timeout_s=timeout_s)

    def next(self, timeout_s: float) -> Incoming | None:
        """The next message, or None when none arrives within `timeout_s`.

        Raises:
            Left: nobody waits for it any more.
        """
        try:
            incoming = self._incoming.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if incoming is None:
            raise Left("cannot go on: who asked has left")
        return incoming

    def put(self, incoming: Incoming | None) -> None:
        """Delivers a message, or with None that who asked has left."""
        self._incoming.put(incoming)


class Gateway:
    """Asks nodes and pools under an id of its own. The connection is made when somebody asks first."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fleet = folder.fleet
        self._broker = BrokerUrl(folder.settings.broker.host, folder.port("client"), tls=True)
        self._tls: ssl.SSLContext | None = None
        self._link: Link | None = None
        self._opening = threading.Lock()
        self._boxes: dict[str, Mailbox] = {}
        self._threads = ThreadPoolExecutor(MAX_EXCHANGES, "exchange")
        self._num_running = 0
        self._ended = False

    def use_new_certificate(self) -> None:
        """Shows the renewed certificate from the next connection on."""
        if self._tls is not None:
            self._tls.load_cert_chain(self._folder.gateway_pem)

    async def ask(self, to: NodeRequest | PoolRequest, request: Request) -> AsyncGenerator[Answer, None]:
        """Asks, and gives what comes back, up to the final. Left early, the node is told to stop.

        Raises:
            Full: too many are asking.
            AnswerError: there is no answer by the deadline, or nobody is in the pool.
            BrokerError: the broker is not there, or refuses.
        """
        if self._num_running >= MAX_EXCHANGES:
            raise Full(f"cannot ask for more than {MAX_EXCHANGES} at once: try again in a moment")
        self._num_running += 1
        try:
            link = await asyncio.to_thread(self._connected)
            box = Mailbox(link, f"{ROOT}/{self._fleet}/client/{GATEWAY}/")
        except BaseException:
            self._num_running -= 1
            raise
        loop, said = asyncio.get_running_loop(), asyncio.Queue[Said | None]()
        self._boxes[request.id or ""] = box
        exchange = Exchange(box, self._fleet, to, request)
        running = loop.run_in_executor(
            self._threads, _run, exchange, lambda what: loop.call_soon_threadsafe(said.put_nowait, what)
        )

        def ended(_running: object) -> None:
            self._num_running -= 1
            del self._boxes[request.id or ""]
            said.put_nowait(None)

        running.add_done_callback(ended)
        try:
            while (what := await said.get()) is not None:
                if isinstance(what, FleetError):
                    raise what
                yield what
            await running  # raises when there was a fault of ours
        finally:
            box.put(None)

    async def end(self) -> None:
        """Ends all exchanges, then the connection."""
        self._ended = True
        for box in self._boxes.values():
            box.put(None)
        await asyncio.to_thread(self._threads.shutdown)
        if self._link is not None:
            await asyncio.to_thread(self._link.close)

    def _connected(self) -> Link:
        """The link, opened if it is not yet.

        Raises:
            BrokerError: the broker is not there, or refuses.
        """
        with self._opening:
            if self._link is None:
                self._tls = ssl.create_default_context(cadata=self._folder.root_pem)
                self._tls.load_cert_chain(self._folder.gateway_pem)
                link = open_link(self._broker, self._tls, session_s=SESSION_S)
                kinds = (AnswerDelta, AnswerFinal)
                link.subscribe({kind.filter(self._fleet, client=GATEWAY): kind.QOS for kind in kinds})
                self._link = link
                threading.Thread(target=self._deliver, args=(link,), name="answers", daemon=True).start()
                log.info("the gateway is connected", broker=self._broker.address)
        if not self._link.connected:
            raise UnreachableError(f"cannot reach the broker at {self._broker.address}: start it and ask again")
        return self._link

    def _deliver(self, link: Link) -> None:
        """Puts each message where it belongs; one for an exchange that has ended belongs nowhere."""
        while not self._ended:
            incoming = link.next(LOOK_S)
            if incoming is None:
                continue
            with contextlib.suppress(BadTopic):
                _, topic = parse(incoming.topic)
                box = self._boxes.get(topic.id) if isinstance(topic, AnswerDelta | AnswerFinal) else None
                if box is not None:
                    box.put(incoming)


def _run(exchange: Exchange, say: Callable[[Said], object]) -> None:
    """One exchange from its beginning to its end, in a thread."""
    try:
        with contextlib.closing(exchange):
            for said in exchange:
                if isinstance(said, Notice):  # only one can come here: nobody listens
                    raise AnswerError("cannot ask this pool: it has no member at the broker now; see `fleet nodes`")
                say(said)
    except FleetError as error:
        say(error)
