"""The nodes of a site among each other: who they are, what they have, and this node's part in it.

Each tells on its topic `have` where it hands out segments, of which files, and the one certificate that it shows. Only
the node itself can write there: whoever has that certificate is that node, whoever signed it, with a clock or without.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.config import Updates
from agent.update.errand import Neighbour, Neighbours
from agent.update.lot import Lot
from contract.limits import MAX_HAVE_FILES
from contract.presence import Have

log = structlog.get_logger()

MAX_NEIGHBOURS: Final = 64


class Swarm:
    """One node's view of its site."""

    def __init__(
        self,
        node: str,
        site: str,
        *,
        pem_file: Path,
        broker_host: str,
        settings: Callable[[], Updates],
        lots: Callable[[], list[Lot]],
        publish: Callable[[bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        """`publish` sets what this node has, retained; `on_change` is called when others have something else."""
        from agent.update.lender import Lender  # only on nodes that are part of a site

        self._node = node
        self._site = site
        self._pem_file = pem_file
        self._broker_host = broker_host
        self._settings = settings
        self._lots = lots
        self._publish = publish
        self._on_change = on_change
        self._others: dict[str, Have] = {}
        self._lender = Lender(lots, settings().neighbours_kib_s << 10)
        self._open_for: frozenset[bytes] | None = None
        self._url = ""
        self._said = b""
        self._looking = asyncio.Lock()

    def take(self, node: str, payload: bytes) -> None:
        """What a node says that it has. Nothing: it is gone."""
        if node == self._node:
            return
        before = self._others.pop(node, None)
        try:
            have = msgspec.json.decode(payload, type=Have) if payload else None
            if have is not None and have.site == self._site and len(self._others) < MAX_NEIGHBOURS:
                bytes.fromhex(have.certificate)
                self._others[node] = have
        except (msgspec.MsgspecError, ValueError):
            log.warning("what a node says that it has cannot be read", node=node)
        if self._others.get(node) != before:
            self._on_change()

    def neighbours(self, file: str) -> Neighbours | None:
        """Those that have or fetch a file; None when none are to be asked."""
        if not self._settings().neighbours:
            return None
        others = [
            Neighbour(node, have.url, have.certificate)
            for node, have in sorted(self._others.items())
            if file in have.files
        ]
        return Neighbours(self._node, others)

    async def look(self) -> None:
        """Hands out what there is, to who is there now, and says so when that has changed."""
        async with self._looking:
            try:
                said = await self._have() if self._settings().neighbours else b""
            except (OSError, ValueError) as error:
                log.warning("cannot hand anything to neighbours", why=str(error))
                said = b""
            if not said:
                self._close()
            if said != self._said:
                self._said = said
                self._publish(said)

    def connected(self) -> None:
        """The broker is there, and may be one that knows nothing of this node."""
        if self._said:
            self._publish(self._said)

    async def _have(self) -> bytes:
        from agent.update.lender import certificate_of

        own = certificate_of(self._pem_file)
        certificates = frozenset([own, *(bytes.fromhex(have.certificate) for have in self._others.values())])
        if certificates != self._open_for:
            host = await asyncio.to_thread(_address, self._broker_host)
            port = await self._lender.open(host, self._settings().neighbours_port, self._pem_file, certificates)
            self._open_for = certificates
            self._url = f"https://[{host}]:{port}/" if ":" in host else f"https://{host}:{port}/"
        files = list(dict.fromkeys(lot.release.file.sha256 for lot in reversed(self._lots())))
        return msgspec.json.encode(Have(self._site, self._url, own.hex(), files[:MAX_HAVE_FILES]))

    def _close(self) -> None:
        self._lender.close()
        self._open_for = None


def _address(towards: str) -> str:
    """This machine's address on the way to a host. Nothing is sent.

    Raises:
        OSError: there is no way.
    """
    family, kind, _, _, address = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
