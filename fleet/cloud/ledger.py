"""What may be spent on clouds, and what left for them. Safe to use from several threads and controllers.

What always holds, also when the process is killed at any point:
- Nothing leaves before it is written down, with the digest of its text, in the transaction that reserves its cost.
- What is reserved is the most that it can take, for the fleet, the node and the client at once, or for none of them. So
  what is spent never passes a limit, however many ask at once. The end gives back what was not taken.
- A reservation whose end never came stays counted for its day: what a provider has made must be paid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contract.quota import day_of, next_day_ms
from fleet.cloud.settings import NANO, CloudSettings, Limit
from fleet.database import cloud as rows
from fleet.database.store import Database

FLEET = "fleet"


@dataclass(frozen=True)
class Asker:
    """For whom: the node that handed the request on, and its client."""

    node: str
    client: str


class OverBudget(Exception):
    """A budget is used up for today. `spender` says whose."""

    def __init__(self, spender: str, retry_after_ms: int) -> None:
        super().__init__(spender)
        self.spender, self.retry_after_ms = spender, retry_after_ms


@dataclass(frozen=True)
class Reservation:
    """What was counted in advance, and the number of its line in the audit."""

    number: int
    asker: Asker
    day: int
    tokens: int
    nano: int


class Ledger:
    """Reserves before anything leaves, and settles when its answer is there."""

    def __init__(self, database: Database, settings: CloudSettings, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._settings = settings
        self._now_ms = now_ms

    def reserve(self, asker: Asker, tokens: int, nano: int, leaving: dict[str, Any]) -> Reservation:
        """Counts the most that something can take, and writes down that it leaves.

        Raises:
            OverBudget: a budget has not so much left; nothing is counted or written.
        """
        now_ms = self._now_ms()
        day = day_of(now_ms)
        with self._database.write() as connection:
            rows.forget_before(connection, day)
            for spender, limit in self._spenders(asker):  # always in this order, so that none waits for another
                if not rows.add_within(connection, spender, day, tokens, nano, _numbers(limit)):
                    raise OverBudget(spender, next_day_ms(now_ms))
            values = {"at_ms": now_ms, "node": asker.node, "client": asker.client, "outcome": "sent", **leaving}
            return Reservation(rows.write_left(connection, values), asker, day, tokens, nano)

    def settle(self, reserved: Reservation, outcome: str, spent: tuple[int, int] | None, nano: int | None) -> None:
        """Counts what it took in place of what was reserved. `spent` None: it may have been all of it."""
        values: dict[str, Any] = {"outcome": outcome}
        with self._database.write() as connection:
            if spent is not None and nano is not None:
                values |= {"prompt_tokens": spent[0], "completion_tokens": spent[1], "nano": nano}
                for spender, _ in self._spenders(reserved.asker):
                    more = sum(spent) - reserved.tokens
                    rows.correct(connection, spender, reserved.day, more, nano - reserved.nano)
            rows.complete_left(connection, reserved.number, values)

    def spent_today(self) -> dict[str, tuple[int, int]]:
        """Tokens and money, in billionths, by spender."""
        with self._database.read() as connection:
            return rows.spent_on(connection, day_of(self._now_ms()))

    def _spenders(self, asker: Asker) -> list[tuple[str, Limit]]:
        own = self._settings
        return [(FLEET, own.fleet), (f"node:{asker.node}", own.node), (f"client:{asker.client}", own.client)]


def _numbers(limit: Limit) -> tuple[int | None, int | None]:
    return limit.tokens_per_day, None if limit.money_per_day is None else round(limit.money_per_day * NANO)
