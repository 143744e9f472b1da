"""The quarantine of this node: in memory, on disk, and told to the operator."""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agent.errors import StoreError
from agent.quarantine import Item, Quarantine
from agent.store.quarantine import Quarantined

log = structlog.get_logger()


class Ward:
    """Keeps what comes into quarantine, and lets out what the operator releases."""

    def __init__(
        self,
        stored: Quarantined,
        *,
        now_ms: Callable[[], int],
        on_alert: Callable[[str, dict[str, Any]], None],
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Begins with what is on disk.

        Raises:
            StoreError: it cannot be read.
        """
        self._stored = stored
        self._on_alert = on_alert
        self._background = background
        self.quarantine = Quarantine(stored.items(), now_ms=now_ms, on_condemned=self._condemned)

    async def release(self, item_id: str | None) -> list[Item]:
        """Ends the quarantine of one thing, or of all, once that is on disk.

        Raises:
            QuarantineError: nothing, or more than one thing, has this id.
            StoreError: it cannot be stored.
        """
        out = self.quarantine.release(item_id)
        await self._stored.keep(self.quarantine.items)
        for item in out:
            log.info("released from quarantine", kind=item.kind, id=item.short_id)
            self._on_alert("released", {"kind": item.kind, "id": item.id})
        return out

    def _condemned(self, item: Item) -> None:
        log.error("in quarantine: engines died of it", kind=item.kind, id=item.short_id, death=item.death)
        self._on_alert("quarantined", {"kind": item.kind, "id": item.id, "death": item.death})
        self._background(self._keep())

    async def _keep(self) -> None:
        try:
            await self._stored.keep(self.quarantine.items)
        except StoreError as error:
            log.error("cannot store what is in quarantine", why=str(error))
