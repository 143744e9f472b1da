"""What clients may ask for through the gateway: requests in a minute, tokens in a day.

A client that asks nodes over MQTT by itself does not come by here: there the nodes count (fleet/client_quotas.py).
Requests are counted in memory, so a new start of the controller forgets them; tokens in the database. What runs when
the tokens of a day are used up goes on to its end.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from contract.quota import Bucket, day_of, next_day_ms, take
from fleet.database import identities
from fleet.database.store import Database


@dataclass(frozen=True)
class OverQuota(Exception):
    """A client may not ask now."""

    what: str
    retry_after_ms: int


class QuotaBook:
    """Counts what clients ask for. Safe to use from several threads."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._buckets: dict[str, Bucket] = {}
        self._counting = threading.Lock()

    def admit(self, client: str) -> None:
        """Counts a request.

        Raises:
            OverQuota: there is none left.
        """
        now_ms = self._now_ms()
        with self._database.read() as connection:
            quotas = identities.find_quotas(connection, client)
            num_spent = identities.find_spent(connection, client, day_of(now_ms))
        if quotas.tokens_per_day is not None and num_spent >= quotas.tokens_per_day:
            raise OverQuota(f"{quotas.tokens_per_day} tokens per day", next_day_ms(now_ms))
        if quotas.requests_per_minute is None:
            return
        with self._counting:
            bucket, wait_ms = take(self._buckets.get(client), quotas.requests_per_minute, now_ms)
            self._buckets[client] = bucket
        if wait_ms:
            raise OverQuota(f"{quotas.requests_per_minute} requests per minute", wait_ms)

    def spend(self, client: str, num_tokens: int) -> None:
        """Counts the tokens of an answer."""
        with self._counting, self._database.write() as connection:
            identities.add_spent(connection, client, day_of(self._now_ms()), num_tokens)
