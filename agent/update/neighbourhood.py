"""What the neighbours of a site have of a release, and who of all gets which segment over the line. In the child.

- What a neighbour has is fetched from it. What none has is fetched over the line by its owner, and the others wait.
- An owner that gets nowhere for `PATIENCE_S` owns nothing any more, until it goes on. So the file comes, whatever the
  neighbours do; they can only make it cost more.
- A neighbour is believed in nothing: it sends segments that are checked, or it is set aside.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final

from agent.tls import NO_CHECK_TIME
from agent.update.errand import Link, Neighbour, Neighbours
from agent.update.lot import is_set
from agent.update.origin import Connection, Origin
from agent.update.plan import Step
from agent.update.reader import SourceError
from agent.update.sources import Sources
from agent.update.stripes import owner_of, rank
from contract.limits import MAX_SEGMENTS

LOOK_S: Final = 0.5
# Nodes that are told of a release at the same time hear of each other within this.
SETTLE_S: Final = 3.0
PATIENCE_S: Final = 15.0


@dataclass(eq=False)
class Peer:
    """A neighbour."""

    name: str
    origin: Origin
    sources: Sources  # itself alone
    has: frozenset[str] = frozenset()
    grew_s: float = field(default_factory=time.monotonic)
    connection: Connection | None = None


class Neighbourhood:
    """The neighbours that have or fetch one file, whose segments are `digests`, in the manifest's order."""

    def __init__(self, file: str, digests: Iterable[str], link: Link, on_poisoned: Callable[[str, str], None]) -> None:
        self._path = f"have/{file}"
        self._digests = list(digests)
        self._link = link
        self._on_poisoned = on_poisoned
        self._own_name = ""
        self._peers: dict[Neighbour, Peer] = {}
        self._began_s = time.monotonic()

    def follow(self, neighbours: Neighbours) -> None:
        """These are the neighbours now."""
        self._own_name = neighbours.node
        gone = set(self._peers) - set(neighbours.others)
        for one in gone:
            del self._peers[one]
        for one in neighbours.others:
            if one not in self._peers:
                with contextlib.suppress(ValueError):  # what it tells of itself is no address
                    origin = Origin(one.url, self._context(), certificate=bytes.fromhex(one.certificate))
                    self._peers[one] = Peer(one.node, origin, Sources([origin], self._on_poisoned))

    async def look(self, news: SimpleQueue[Neighbours]) -> None:
        """Asks all what they have, and hears who they are, again and again, until cancelled."""
        while True:
            while not news.empty():
                self.follow(news.get())
            await asyncio.gather(*(self._ask(peer) for peer in list(self._peers.values())))
            await asyncio.sleep(LOOK_S)

    def pick(self, steps: Collection[Step], now_s: float) -> tuple[Step, Sources | None] | None:
        """What to fetch next, and from which neighbour; None instead of one: over the line. None at all: wait."""
        peers = [peer for peer in self._peers.values() if not peer.sources.all[0].is_out]
        for step in steps:
            if having := [peer for peer in peers if step.segment.sha256 in peer.has]:
                nearest = max(having, key=lambda peer: rank(step.segment.sha256, self._own_name + peer.name))
                return step, nearest.sources
        if now_s < self._began_s + SETTLE_S:
            return None
        working = [peer.name for peer in peers if now_s < peer.grew_s + PATIENCE_S]
        for step in steps:
            if owner_of(step.segment.sha256, [self._own_name, *working]) == self._own_name:
                return step, None
        return None

    def lost(self, sources: Sources) -> None:
        """A neighbour did not send what it has. It is asked again what that is."""
        for peer in self._peers.values():
            if peer.sources is sources:
                peer.has = frozenset()

    async def _ask(self, peer: Peer) -> None:
        try:
            if peer.connection is None or not peer.connection.is_open:
                peer.connection = await peer.origin.open()
            flags = await peer.connection.whole(self._path, MAX_SEGMENTS // 8)
        except SourceError:
            peer.connection, peer.has = None, frozenset()
            return
        has = frozenset(digest for number, digest in enumerate(self._digests) if is_set(flags, number))
        if not has <= peer.has:
            peer.grew_s = time.monotonic()
        peer.has = has

    def _context(self) -> ssl.SSLContext:
        """Shows who this node is. Of the other the one certificate that it may have is compared, and no chain."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.verify_flags |= NO_CHECK_TIME
        if self._link.pem_file:
            context.load_cert_chain(self._link.pem_file, password=lambda: "")
        return context
