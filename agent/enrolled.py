"""What an agent does for its controller once it is enrolled: follows signed documents, reports, runs commands."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agent.activation import Activation
from agent.desired import Wish, is_attainable
from agent.documents import Documents
from agent.events import Events
from agent.incoming import Incoming
from agent.link import Link
from agent.orders import Orders
from agent.presence import Presence
from agent.quotas import Quotas
from agent.renewal import Renewal
from agent.steering import Steering
from agent.store.facts import Facts
from agent.update.updater import Updater
from contract import topics
from contract.signed import Time, Trust, key_id

log = structlog.get_logger()

# What the controller sends.
Steered = topics.NodeDesired | topics.GroupPolicy | topics.ClientQuota | topics.NodeCommand


class Enrolled:
    """The controller's side of a daemon, made of parts that know nothing of each other."""

    def __init__(
        self,
        node: str,
        fleet: str,
        *,
        facts: Facts,
        renewal: Renewal,
        activation: Activation,
        updater: Updater,
        link: Link,
        presence: Presence,
        events: Events,
        orders: Orders,
        background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`background` runs what a message asks for.

        Raises:
            StoreError: what an earlier run stored cannot be read.
        """
        self._node = node
        self._fleet = fleet
        self._renewal = renewal
        self._link = link
        self._presence = presence
        self._orders = orders
        self._background = background
        self._documents = Documents(
            node,
            facts,
            trust=self._trust,
            time=self._time,
            learn_signed=renewal.learn_signed,
            on_refused=lambda data: events.alert("document_refused", data),
        )
        self.quotas = Quotas(
            fleet,
            trust=self._trust,
            time=self._time,
            subscribe=link.subscribe,
            monotonic_ms=_monotonic_ms,
        )
        self._groups = self._documents.groups
        self._activation = activation
        self.updater = updater
        self._steering = Steering(
            self._documents,
            facts,
            present=lambda: activation.present,
            running=lambda: activation.running,
            apply=activation.apply,
            on_good=activation.hold,
            say=presence.report,
            on_groups=self._join,
            on_settings=lambda data: events.audit("settings_changed", data),
            now_ms=_monotonic_ms,
            in_force=self._in_force,
            is_exchanging=lambda: updater.is_exchanging,
            completed=updater.reported,
        )

    @property
    def filters(self) -> list[str]:
        """What a connection subscribes to for this."""
        own = [kind.filter(self._fleet, node=self._node) for kind in (topics.NodeDesired, topics.NodeCommand)]
        return own + self._policies(self._groups) + self.quotas.filters

    async def restore(self) -> None:
        """Begins with what was in force when the last run ended well. The models are known by now."""
        await self.updater.start()
        self._activation.restore(self.updater.in_force(self._steering.last_good))

    async def run(self) -> None:
        """Follows what is wished, until cancelled."""
        await self._orders.answer_the_cut_off()
        await asyncio.gather(self._steering.run(), self.updater.run())

    def updates_moved(self) -> None:
        """Another release serves, or one has come further."""
        self._steering.follow()
        self.report()

    def report(self) -> None:
        """Says where the node is."""
        self._steering.report()

    async def heartbeat(self) -> None:
        """Says where the node is if that has changed, else that it is there.

        In the event loop: APScheduler takes plain functions into threads.
        """
        if self._steering.has_news:
            self.report()
        else:
            self._presence.beat()

    def describe(self) -> dict[str, Any]:
        """Its part of `shoal-agent status`."""
        return self._steering.describe()

    async def purge(self) -> None:
        """Forgets what nobody asks for any more.

        Raises:
            StoreError: it cannot be deleted.
        """
        await self._orders.purge()

    def take(self, message: Incoming, topic: Steered) -> None:
        """Takes a message of the controller."""
        match topic:
            case topics.NodeDesired():
                self._background(self._document(message, None))
            case topics.GroupPolicy(group=group):
                self._background(self._document(message, group))
            case topics.ClientQuota(client=client):
                if message.payload:
                    self.quotas.take(message.payload, client)
                message.ack()
            case _ if message.retained:
                # One that is retained would be answered again at every connection.
                log.warning("retained command is ignored")
                message.ack()
            case _:
                self._background(self._orders.take(message))

    async def _document(self, message: Incoming, group: str | None) -> None:
        if message.payload:  # nothing is how a retained document is deleted; what is in force stays
            await self._steering.take(message.payload, group)
        message.ack()

    def _in_force(self, wish: Wish) -> Wish:
        if not is_attainable(wish, self._activation.present):
            return wish  # which is refused whole, with all that is wrong with it; nothing of it is fetched
        self.updater.follow(wish)
        return self.updater.in_force(wish)

    def _trust(self) -> Trust:
        identity = self._renewal.identity
        keys = [bytes.fromhex(key) for key in identity.signing_keys] if identity else []
        return Trust({key_id(key): key for key in keys})

    def _time(self) -> Time:
        clock = self._renewal.clock
        return Time(clock.now_ms(), clock.is_credible)

    def _join(self, groups: list[str]) -> None:
        """From now on this node is in these groups."""
        before, self._groups = self._groups, groups
        self._link.subscribe(self._policies(groups))  # all: the broker then sends their policies (again)
        self._link.unsubscribe(self._policies(group for group in before if group not in groups))

    def _policies(self, groups: Any) -> list[str]:
        return [topics.GroupPolicy.filter(self._fleet, group=group) for group in groups]


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
