"""What a link may be used for: so many bytes per second, so many in all, until a time."""

import asyncio
import time
from typing import Final

# What may come at once after a pause: enough that a late wake-up does not lower the rate, too little to fill a queue.
BURST_S: Final = 0.25


class Closed(Exception):
    """The link may not be used any more for now. Says why."""


class Spent(Closed):
    """As many bytes came as may come on this day."""


class Pace:
    """Counts the bytes of all connections that share it, and slows them down."""

    def __init__(
        self, bytes_per_s: float = 0.0, left_bytes: int | None = None, closes_at_s: float | None = None
    ) -> None:
        """`bytes_per_s` 0: as many as come. `closes_at_s` is monotonic."""
        self._rate = bytes_per_s
        self._left_bytes = left_bytes
        self._closes_at_s = closes_at_s
        self._free_at_s = 0.0  # when all that came is paid for
        self.came_bytes = 0

    async def spend(self, num_bytes: int) -> float:
        """Counts bytes that came, and returns when more may come: after so many seconds.

        Raises:
            Closed: no more may come.
        """
        now_s = time.monotonic()
        self.came_bytes += num_bytes
        if self._left_bytes is not None and self.came_bytes >= self._left_bytes:
            raise Spent(f"the {self._left_bytes} bytes that were left for this day have come")
        if self._closes_at_s is not None and now_s >= self._closes_at_s:
            raise Closed("the window has closed")
        if self._rate <= 0:
            return 0.0
        self._free_at_s = max(self._free_at_s, now_s - BURST_S) + num_bytes / self._rate
        wait_s = self._free_at_s - now_s
        if wait_s <= 0:
            return 0.0
        await asyncio.sleep(wait_s)
        return wait_s
