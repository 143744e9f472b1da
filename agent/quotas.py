"""What clients may ask of this node: each has the quotas that the controller signed for it, counted here.

A client's quotas are fetched from the broker when it asks for the first time in a run, so a node knows only those that
concern it; what comes before they are there is let in. Counts are in memory: a new start of the agent forgets them.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from contract.errors import Refused
from contract.quota import CODE, Bucket, day_of, next_day_ms, take
from contract.signed import Mark, Refusal, Time, Trust, verify
from contract.status import Status
from contract.steering import Quota
from contract.topics import ClientQuota

log = structlog.get_logger()


class _Account(msgspec.Struct):
    """Of one client: its quotas, and what it has had."""

    quota: Quota | None = None
    mark: Mark | None = None
    bucket: Bucket | None = None
    day: int = 0
    num_tokens: int = 0


class Quotas:
    """Counts what clients ask for."""

    def __init__(
        self,
        fleet: str,
        *,
        trust: Callable[[], Trust],
        time: Callable[[], Time],
        subscribe: Callable[[list[str]], Any],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._fleet = fleet
        self._trust = trust
        self._time = time
        self._subscribe = subscribe
        self._monotonic_ms = monotonic_ms
        self._accounts: dict[str, _Account] = {}

    @property
    def filters(self) -> list[str]:
        """What a new connection subscribes to for this."""
        return [self._filter(client) for client in self._accounts]

    def admit(self, client: str) -> None:
        """Counts a request.

        Raises:
            Refused: 429, with when there will be room again.
        """
        account = self._account(client)
        if (quota := account.quota) is None:
            return
        if quota.tokens_per_day is not None and account.num_tokens >= quota.tokens_per_day:
            raise _over(f"{quota.tokens_per_day} tokens per day", next_day_ms(self._time().now_ms))
        if quota.requests_per_minute is not None:
            account.bucket, wait_ms = take(account.bucket, quota.requests_per_minute, self._monotonic_ms())
            if wait_ms:
                raise _over(f"{quota.requests_per_minute} requests per minute", wait_ms)

    def spend(self, client: str, num_tokens: int) -> None:
        """Counts the tokens of an answer."""
        self._account(client).num_tokens += num_tokens

    def take(self, data: bytes, client: str) -> None:
        """Takes a document as it came."""
        account = self._account(client)
        found = verify(data, Quota, client, account.mark, self._trust(), self._time())
        if isinstance(found, Refusal):
            log.warning("document refused", client=client, refusal=found.event, why=found.reason)
        else:
            account.quota, account.mark = found.document, found.mark

    def _account(self, client: str) -> _Account:
        """A client's account, as of today."""
        if client not in self._accounts:
            self._accounts[client] = _Account()
            self._subscribe([self._filter(client)])
        account, today = self._accounts[client], day_of(self._time().now_ms)
        if account.day != today:
            account.day, account.num_tokens = today, 0
        return account

    def _filter(self, client: str) -> str:
        return ClientQuota.filter(self._fleet, client=client)


def _over(what: str, wait_ms: int) -> Refused:
    message = f"cannot take the request: the quota is {what}"
    return Refused(Status.BUSY, CODE, message, retry_after_ms=wait_ms)
