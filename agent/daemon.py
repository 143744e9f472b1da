"""The daemon: makes the parts, connects them, starts and stops them in order.

start: lock → store → journal's open requests → control socket → link ∥ engine
stop:  draining → running requests end → outbox flushed → offline → link → engine → store
"""

import asyncio
import fcntl
import resource
import signal
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent.answering import Answering
from agent.card import make_card, versions
from agent.catalog import Catalog
from agent.config import Config
from agent.control import Control
from agent.errors import StoreError
from agent.intake import Intake
from agent.job import Job
from agent.link import Incoming, Link, Session
from agent.post import Post
from agent.quarantine import Item, Quarantine
from agent.store.database import Database
from agent.store.facts import Facts
from agent.store.journal import Journal
from agent.store.outbox import Letter, Outbox, Priority
from agent.store.quarantine import Quarantined
from contract import topics
from contract.answers import Delta, Final
from contract.presence import NodeState
from contract.presence import State as Presence
from contract.requests import Request
from contract.steering import Event

log = structlog.get_logger()

PURGE_S = 60
OFFLINE_WAIT_S = 5.0


class Daemon:
    """One agent."""

    def __init__(self, config: Config) -> None:
        """Opens the store.

        Raises:
            StoreError: the state directory cannot be used, or another agent uses it.
            ConfigError: files that the configuration names cannot be used.
        """
        self._config = config
        self._lock = _lock(config.state_dir)
        self._database = Database(config.state_dir)
        self._facts = Facts(self._database)
        self._journal = Journal(self._database)
        self._outbox = Outbox(self._database, config.journal.outbox_mib * 2**20)
        self._session = 0
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._messages: set[asyncio.Task[None]] = set()
        self._link = Link(
            config.broker,
            client_id=config.node.id,
            new_session=self._new_session,
            on_message=self._on_message,
            on_connected=self._on_connected,
        )
        self._post = Post(
            self._outbox,
            lambda topic, payload, properties: self._link.publish(topic, payload, qos=1, properties=properties),
        )
        self._quarantined = Quarantined(self._database)
        self._quarantine = Quarantine(self._quarantined.items(), now_ms=now_ms, on_condemned=self._condemned)
        self._models = Catalog(
            config, self._facts, quarantine=self._quarantine, on_change=self._say_who_i_am, on_alert=self._alert
        )
        self._intake = Intake(
            fleet=config.node.fleet,
            default_ttl_ms=config.limits.ttl_ms,
            answering_for=self._answering_for,
            journal=self._journal,
            outbox=self._outbox,
            post=self._post,
            publish=self._link.publish,
            now_ms=now_ms,
        )
        self._control = Control(
            config.state_dir,
            status=self.status,
            ask=self._ask,
            adapters=lambda: {
                "in_use": sorted(self._models.adapters_in_use),
                "resident": self._models.resident_adapters,
            },
            quarantined=lambda: self._quarantine.items,
            release=self._release,
        )

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # Prompts are in memory: a core file would put them on disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        log.info("starting", node=self._config.node.id, fleet=self._config.node.fleet, **versions())
        await self._control.start()
        await self._outbox.forget_delivered()
        await self._models.look()
        if again := await self._intake.take_up():
            log.info("requests from before the last stop run again", requests=again)
        scheduler = AsyncIOScheduler()
        scheduler.add_job(self._purge, "interval", seconds=PURGE_S)
        scheduler.start()
        link = asyncio.create_task(self._link.run(), name="link")
        self._models.start()
        await self._stopping.wait()
        scheduler.shutdown(wait=False)
        await self._drain()
        link.cancel()
        await asyncio.gather(link, return_exceptions=True)
        await self._models.stop()
        await self._control.stop()
        self._outbox.close()
        self._database.close()
        log.info("stopped")

    def status(self) -> dict[str, Any]:
        """What `shoal-agent status` shows."""
        process = psutil.Process()
        return {
            "node": self._config.node.id,
            "fleet": self._config.node.fleet,
            "state": self._presence(),
            "uptime_s": round(time.monotonic() - self._started),
            "broker": {
                "address": f"{self._config.broker.host}:{self._config.broker.port}",
                "connected": self._link.connected,
                "protocol": self._link.protocol,
                "session": self._session,
            },
            "engine": self._models.describe(),
            "models": self._models.describe_all(),
            "adapters": self._models.describe_adapters(),
            "requests": {
                "waiting": self._models.num_waiting,
                "running": self._models.num_running,
                "ended": {str(int(code)): number for code, number in sorted(self._models.num_ended.items())},
            },
            "quarantine": dict(Counter(item.kind for item in self._quarantine.items)),
            "outbox": self._outbox.waiting(),
            "memory_mib": round(process.memory_full_info().pss / 2**20, 1),
            "pid": process.pid,
        }

    # The broker.

    async def _new_session(self) -> Session:
        try:
            # From the clock, so that a node whose disk was replaced does not begin below its last will.
            self._session = await self._facts.count_up("session", at_least=now_ms())
        except StoreError as error:
            log.error("cannot count connections", why=str(error))
            self._session += 1
        node, fleet = self._config.node.id, self._config.node.fleet
        filters = [topics.NodeRequest.filter(fleet, node=node), topics.NodeCancel.filter(fleet, node=node)]
        for pool in self._config.node.pools:
            filters += [topics.PoolRequest.shared_filter(fleet, pool), topics.PoolCancel.filter(fleet, pool=pool)]
        return Session(filters, self._status_topic(), self._state("lost"))

    def _on_connected(self) -> None:
        self._say_who_i_am()
        self._post.connected()

    def _on_message(self, message: Incoming) -> None:
        try:
            _, topic = topics.parse(message.topic)
        except topics.BadTopic:
            log.warning("message on a topic with an invalid id is ignored", bytes=len(message.payload))
            message.ack()
            return
        match topic:
            case _ if message.retained:
                # Requests are never retained; one that is would be answered again at every connection.
                log.warning("retained request is ignored")
                message.ack()
            case topics.NodeRequest(client=client) | topics.PoolRequest(client=client):
                self._background(self._intake.request(message, client))
            case topics.NodeCancel(client=client) | topics.PoolCancel(client=client):
                self._background(self._intake.cancel(message, client))
            case _:
                message.ack()

    def _presence(self) -> Presence:
        if self._models.draining:
            return "draining"
        return "online" if self._models.is_up else "degraded"

    def _say_who_i_am(self) -> None:
        """Publishes presence and card."""
        if not self._link.connected:
            return
        self._link.publish(self._status_topic(), self._state(self._presence()), qos=1, retain=True)
        default = self._models.default
        ready = default.ready if default else None
        card = make_card(self._config, self._models.cards(), self._models.adapter_cards(), ready, now_ms())
        topic = topics.NodeCard(self._config.node.id).path(self._config.node.fleet)
        self._link.publish(topic, msgspec.json.encode(card), qos=1, retain=True)

    def _alert(self, name: str, data: dict[str, Any]) -> None:
        event = Event(eid=uuid.uuid4().hex, ts=now_ms(), name=name, data=data)
        topic = topics.NodeEvent(self._config.node.id, "alert").path(self._config.node.fleet)
        self._background(self._post.write(Letter(topic, msgspec.json.encode(event), priority=Priority.EVENT)))

    def _status_topic(self) -> str:
        return topics.NodeStatus(self._config.node.id).path(self._config.node.fleet)

    def _state(self, state: Presence) -> bytes:
        return msgspec.json.encode(NodeState(state, self._session, now_ms()))

    async def _drain(self) -> None:
        log.info("stopping", drain_s=self._config.limits.drain_s, running=self._models.num_running)
        self._models.refuse_all()
        self._say_who_i_am()
        await self._models.drain(self._config.limits.drain_s)
        await self._post.flush(OFFLINE_WAIT_S)
        said = self._link.publish(self._status_topic(), self._state("offline"), qos=1, retain=True)
        if said is not None:
            await asyncio.wait([said], timeout=OFFLINE_WAIT_S)
        await self._link.close()

    # Requests.

    def _ask(self, request: Request, on_delta: Any, on_final: Any) -> None:
        """A request from the control socket: not journaled, because who asks waits for it."""
        answering = self._answering_for(request)
        answering.check_admission("local")

        async def end(final: Final) -> None:
            on_final(final)

        def piece(delta: Delta) -> None:
            on_delta(delta)

        now = time.monotonic()
        answering.submit(
            Job(
                client="local",
                id=request.id or uuid.uuid4().hex,
                request=request,
                arrived=now,
                deadline=now + (request.ttl_ms or self._config.limits.ttl_ms) / 1000,
                on_delta=piece,
                on_final=end,
            )
        )

    def _answering_for(self, request: Request) -> Answering:
        self._quarantine.check(request)
        return self._models.answering_for(request)

    def _condemned(self, item: Item) -> None:
        log.error("in quarantine: engines died of it", kind=item.kind, id=item.short_id, death=item.death)
        self._alert("quarantined", {"kind": item.kind, "id": item.id, "death": item.death})
        self._background(self._keep_quarantine())

    async def _release(self, item_id: str | None) -> list[Item]:
        """Ends the quarantine of one thing, or of all, once that is on disk."""
        out = self._quarantine.release(item_id)
        await self._quarantined.keep(self._quarantine.items)
        for item in out:
            log.info("released from quarantine", kind=item.kind, id=item.short_id)
            self._alert("released", {"kind": item.kind, "id": item.id})
        return out

    async def _keep_quarantine(self) -> None:
        try:
            await self._quarantined.keep(self._quarantine.items)
        except StoreError as error:
            log.error("cannot store what is in quarantine", why=str(error))

    async def _purge(self) -> None:
        try:
            await self._journal.purge(now_ms(), self._config.journal.keep_s * 1000)
        except StoreError as error:
            log.error("cannot purge the journal", why=str(error))

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._messages.add(task)
        task.add_done_callback(self._messages.discard)


def now_ms() -> int:
    """The device's clock, ms since 1970."""
    return time.time_ns() // 1_000_000


def _lock(state_dir: Path) -> IO[str]:
    """Makes sure that one agent alone uses a state directory; the lock ends with the process."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state_dir / "agent.lock").open("a+", encoding="utf-8")  # held open for life
    except OSError as error:
        raise StoreError(f"cannot use the state directory {state_dir}: {error}; set [node] state_dir") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreError(
            f"cannot start: another agent uses {state_dir}; stop it, or set another [node] state_dir"
        ) from error
    return file
