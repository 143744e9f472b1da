"""The parts that lend the cloud, made from the settings."""

from collections.abc import Callable

import httpx
from starlette.routing import Route

from contract.topics import Topic
from fleet.certified import Certificates
from fleet.cloud.desk import Desk
from fleet.cloud.ledger import Ledger
from fleet.cloud.lender import Lender
from fleet.cloud.upstream import Upstream
from fleet.database.store import Database
from fleet.folder import Folder
from fleet.web.cloud import make_routes


class Lending:
    """Lends over HTTPS and over MQTT. Without upstreams every request gets 502."""

    def __init__(
        self, folder: Folder, database: Database, post: Callable[[Topic, bytes], object], now_ms: Callable[[], int]
    ) -> None:
        """To be made in the event loop.

        Raises:
            FolderError: a provider's key cannot be read.
        """
        settings = folder.settings.cloud
        # Redirects are not followed: a prompt goes where the settings say and nowhere else.
        self._client = httpx.AsyncClient(follow_redirects=False)
        upstreams = [Upstream(one, one.key(folder.path), self._client) for one in settings.upstreams]
        lender = Lender(
            upstreams,
            Ledger(database, settings, now_ms),
            requests_per_minute=settings.node_requests_per_minute,
        )
        self.desk = Desk(lender, post, now_ms)
        self.routes: list[Route] = make_routes(lender, Certificates(database, now_ms), now_ms)

    async def end(self) -> None:
        """Stops what runs, and closes the connections."""
        await self.desk.end()
        await self._client.aclose()
