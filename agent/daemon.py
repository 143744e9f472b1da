"""The daemon: makes the parts, connects them, starts and stops them in order.

start: lock → store → journal's open requests → control socket → link ∥ engine
stop:  draining → running requests end → outbox flushed → offline → link → engine → store
"""

import asyncio
import os
import resource
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import psutil
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent import sureness
from agent.activation import Activation
from agent.answering import Answering
from agent.asking import Asking
from agent.card import versions
from agent.catalog import Catalog
from agent.config import Config
from agent.connection import Session
from agent.control import Control
from agent.description import describe_adapters, describe_default, describe_models, telemetry_columns
from agent.dispatch import Dispatch
from agent.enrolled import Enrolled
from agent.errors import ConfigError, StoreError
from agent.events import Events
from agent.identity import identity_folder
from agent.incoming import Incoming
from agent.intake import Intake
from agent.link import Link
from agent.load import load_of, place_of
from agent.logs import Tail, set_level
from agent.models import Manner
from agent.notify import Notifier
from agent.operations import Operations
from agent.orders import Orders
from agent.post import Post
from agent.presence import Presence
from agent.readings import Readings
from agent.redaction import Redactor
from agent.relay import Relay
from agent.renewal import LOOK_S, Renewal
from agent.settings import Settings
from agent.site import LOOK_S as SITE_LOOK_S
from agent.site import Site
from agent.store.commands import Commands
from agent.store.database import Database
from agent.store.facts import Facts
from agent.store.journal import Journal
from agent.store.lock import lock
from agent.store.outbox import Outbox
from agent.store.quarantine import Quarantined
from agent.store.releases import Releases
from agent.tally import Tally
from agent.telemetry import Telemetry
from agent.update.collector import Collector
from agent.update.depot import Depot
from agent.update.duties import FOLDER, Duties
from agent.update.gating import Gating
from agent.update.supplies import LOOK_S as SUPPLIES_LOOK_S
from agent.update.supplies import Supplies
from agent.update.updater import Updater
from agent.ward import Ward
from agent.watch import Watch
from contract import topics
from contract.requests import Request
from contract.settings import TelemetryLevel
from contract.steering import HEARTBEAT_JITTER, HEARTBEAT_S

log = structlog.get_logger()

PURGE_S = 60
WATCH_S = 60
OFFLINE_WAIT_S = 5.0


class Daemon:
    """One agent."""

    def __init__(self, config: Config, tail: Tail, depot: Depot | None = None) -> None:
        """Opens the store. `tail` has the last lines of the log, `depot` has releases instead of the fleet's sources.

        Raises:
            StoreError: the state directory cannot be used, or another agent uses it.
            ConfigError: files that the configuration names cannot be used.
        """
        self._config = config
        self._lock = lock(config.state_dir)
        self._database = Database(config.state_dir)
        self._facts = Facts(self._database)
        self._journal = Journal(self._database)
        self._releases = Releases(self._database)
        self._outbox = Outbox(self._database, config.journal.outbox_mib * 2**20)
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._messages: set[asyncio.Task[None]] = set()
        self._renewal = Renewal(
            identity_folder(config.state_dir),
            self._facts,
            system_ms=now_ms,
            monotonic_s=time.monotonic,
            connected=lambda: self._link.connected,
        )
        self._link = Link(
            config.broker,
            client_id=config.node.id,
            new_session=self._new_session,
            on_message=self._on_message,
            on_connected=self._on_connected,
            check_time=lambda: self._renewal.check_time,
        )
        self._settings = Settings(config, {"log.level": set_level, "telemetry.level": self._pace})
        # A machine that slept runs what was due once, late, and says nothing of it.
        self._scheduler = AsyncIOScheduler(job_defaults={"misfire_grace_time": None, "coalesce": True})
        self._tally = Tally()
        self._post = Post(
            self._outbox,
            lambda topic, payload, properties: self._link.publish(topic, payload, qos=1, properties=properties),
        )
        self._events = Events(config.node.id, config.node.fleet, self._post, now_ms=now_ms, background=self._background)
        self._ward = Ward(
            Quarantined(self._database), now_ms=now_ms, on_alert=self._events.alert, background=self._background
        )
        self._models = Catalog(
            config,
            self._facts,
            limits=lambda: self._settings.limits,
            kept_adapters=lambda: self._activation.kept_adapters(self._updater.needed),
            manner_of=lambda label: Manner.of(self._releases.find(label)),
            active_adapters=lambda: self._activation.running.adapters,
            on_crash=self._crashed,
            tally=self._tally,
            quarantine=self._ward.quarantine,
            on_change=lambda: self._presence.say(),  # noqa: PLW0108  # it is made below
            on_alert=self._events.alert,
        )
        self._presence = Presence(config, self._models, self._link, now_ms)
        self._activation = Activation(self._models, self._settings)
        self._supplies = Supplies(
            config,
            renewal=self._renewal,
            settings=self._settings,
            releases=self._releases,
            models=self._models,
            link=lambda: self._link,
            events=self._events,
            background=self._background,
        )
        self._updater = self._make_updater(depot or self._supplies.delivery)
        self._asking = Asking(
            complete=self._activation.complete,
            answering_for=self._answering_for,
            default_ttl_ms=lambda: self._settings.limits.ttl_ms,
        )
        clock = self._renewal.clock
        self._enrolled = self._renewal.identity and Enrolled(
            config.node.id,
            config.node.fleet,
            facts=self._facts,
            renewal=self._renewal,
            activation=self._activation,
            updater=self._updater,
            link=self._link,
            presence=self._presence,
            events=self._events,
            orders=Orders(
                Commands(self._database),
                Operations(self._models, self._asking, tail, self._presence.say).all,
                events=self._events,
                post=self._post,
                now_ms=clock.now_ms,
            ),
            background=self._background,
        )
        readings = Readings(config.state_dir)
        self._telemetry = Telemetry(
            readings,
            self._tally,
            self._scheduler,
            node_columns=lambda: telemetry_columns(self._models, self._settings.limits.queue, self._ward.quarantine),
            connected=lambda: self._link.connected,
            publish=self._presence.measure,
            now_ms=now_ms,
        )
        self._watch = Watch(
            disk_free_mib=readings.disk_free_mib,
            clock_off_ms=lambda: None if clock.is_credible else clock.off_ms,
            on_alert=self._events.alert,
        )
        self._relay = Relay(config.node.id, config.node.fleet, self._link.publish)
        self._site = Site(
            config.node.id,
            config.node.site,
            config.node.fleet,
            own_load=lambda: load_of(self._models, now_ms()),
            publish=self._link.publish,
            now_ms=now_ms,
        )
        self._dispatch = Dispatch(
            config.node.id,
            site=self._site,
            relay=self._relay,
            redactor=_redactor(config),
            answering_for=self._answering_for,
            place_of=lambda request: place_of(config.node.id, self._models, request),
            default_max_tokens=config.sampling.max_tokens,
            has_cloud=lambda: self._enrolled is not None and self._link.connected,
            sureness=sureness.load(config.state_dir),
        )
        self._intake = Intake(
            fleet=config.node.fleet,
            default_ttl_ms=lambda: self._settings.limits.ttl_ms,
            complete=self._activation.complete,
            on_refused=self._tally.refused,
            choose=self._dispatch.choose,
            admit=self._enrolled.quotas.admit if self._enrolled else lambda _: None,
            spend=self._enrolled.quotas.spend if self._enrolled else lambda *_: None,
            journal=self._journal,
            outbox=self._outbox,
            post=self._post,
            publish=self._link.publish,
            now_ms=now_ms,
        )
        self._notifier = Notifier(os.environ, is_alive=lambda: self._models.is_alive)
        self._control = Control(
            config.state_dir,
            status=self.status,
            ask=self._asking.ask,
            adapters=lambda: {
                "in_use": sorted(self._models.adapters_in_use),
                "resident": self._models.resident_adapters,
            },
            quarantined=lambda: self._ward.quarantine.items,
            release=self._ward.release,
            updates=self._updater,
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
        self._events.alert("agent_started", {"versions": versions()})
        await self._models.look()
        if self._enrolled:
            await self._enrolled.restore()
        else:
            log.info("not enrolled: desired state and commands are not followed")
        if again := await self._intake.take_up():
            log.info("requests from before the last stop run again", requests=again)
        running = [asyncio.create_task(self._link.run(), name="link")]
        self._models.start()
        self._scheduler.add_job(self._purge, "interval", seconds=PURGE_S)
        self._scheduler.add_job(self._watch.look, "interval", seconds=WATCH_S, next_run_time=datetime.now(UTC))
        self._scheduler.add_job(self._renewal.look, "interval", seconds=LOOK_S, jitter=LOOK_S // 10)
        if self._enrolled:
            running.append(asyncio.create_task(self._enrolled.run(), name="steering"))
            jitter_s = round(HEARTBEAT_S * HEARTBEAT_JITTER)
            self._scheduler.add_job(self._enrolled.heartbeat, "interval", seconds=HEARTBEAT_S, jitter=jitter_s)
        self._telemetry.set_level(self._settings.telemetry)
        if self._notifier.beat_s:
            self._scheduler.add_job(self._notifier.beat, "interval", seconds=self._notifier.beat_s)
        self._scheduler.add_job(self._supplies.look, "interval", seconds=SUPPLIES_LOOK_S)
        if self._site.name:
            self._scheduler.add_job(self._site.tell, "interval", seconds=SITE_LOOK_S)
            self._scheduler.add_job(self._site.tell, "interval", (True,), seconds=HEARTBEAT_S)
        self._scheduler.start()
        self._notifier.ready()
        await self._stopping.wait()
        self._notifier.stopping()
        self._scheduler.shutdown(wait=False)
        await self._drain()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
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
            "state": self._presence.state,
            "uptime_s": round(time.monotonic() - self._started),
            "broker": {
                "address": f"{self._config.broker.host}:{self._config.broker.port}",
                "connected": self._link.connected,
                "protocol": self._link.protocol,
                "session": self._presence.session,
            },
            "certificate_expires_ms": self._renewal.identity and self._renewal.identity.expires_ms,
            "desired": self._enrolled and self._enrolled.describe(),
            "engine": describe_default(self._models),
            "models": describe_models(self._models),
            "adapters": describe_adapters(self._models),
            "requests": {
                "waiting": self._models.num_waiting,
                "running": self._models.num_running,
                "ended": {str(int(code)): number for code, number in sorted(self._models.num_ended.items())},
            },
            "quarantine": dict(Counter(item.kind for item in self._ward.quarantine.items)),
            "outbox": self._outbox.waiting(),
            "memory_mib": round(process.memory_full_info().pss / 2**20, 1),
            "pid": process.pid,
        }

    def _make_updater(self, depot: Depot) -> Updater:
        collector = Collector(self._config, self._releases, self._models, lambda: self._updater.needed)
        duties = Duties(
            self._config,
            depot=depot,
            releases=self._releases,
            models=self._models,
            activation=self._activation,
            gating=Gating(self._config, self._models),
            collector=collector,
            wish_with=lambda slot, release: self._updater.wish_with(slot, release),  # noqa: PLW0108  # it is made below
        )
        return Updater(
            self._facts,
            do=duties.do,
            present=lambda: self._activation.present,
            running=lambda: self._activation.running,
            on_change=self._updates_moved,
            on_end=lambda: collector.sweep(self._config.state_dir / FOLDER),
            on_event=self._events.alert,
        )

    def _updates_moved(self) -> None:
        if self._enrolled:
            self._enrolled.updates_moved()

    def _crashed(self, label: str) -> None:
        if label == self._activation.running.model:
            self._updater.crashed()

    def _pace(self, level: TelemetryLevel) -> None:
        self._telemetry.set_level(level)

    # The broker.

    async def _new_session(self) -> Session:
        try:
            # From the clock, so that a node whose disk was replaced does not begin below its last will.
            self._presence.session = await self._facts.count_up("session", at_least=now_ms())
        except StoreError as error:
            log.error("cannot count connections", why=str(error))
            self._presence.session += 1
        node, fleet = self._config.node.id, self._config.node.fleet
        filters = [topics.NodeRequest.filter(fleet, node=node), topics.NodeCancel.filter(fleet, node=node)]
        for pool in self._config.node.pools:
            filters += [topics.PoolRequest.shared_filter(fleet, pool), topics.PoolCancel.filter(fleet, pool=pool)]
        filters += self._relay.filters + self._site.filters + self._supplies.filters
        if self._enrolled:
            filters += self._enrolled.filters
        return Session(filters, self._presence.topic, self._presence.payload("lost"))

    def _on_connected(self) -> None:
        self._presence.say()
        self._post.connected()
        self._telemetry.connected()
        self._site.tell(again=True)
        self._supplies.connected()
        if self._enrolled:
            self._enrolled.report()

    def _on_message(self, message: Incoming) -> None:
        try:
            _, topic = topics.parse(message.topic)
        except topics.BadTopic:
            log.warning("message on a topic with an invalid id is ignored", bytes=len(message.payload))
            message.ack()
            return
        match topic:
            case topics.NodeDesired() | topics.GroupPolicy() | topics.ClientQuota() | topics.NodeCommand() if (
                self._enrolled
            ):
                self._enrolled.take(message, topic)
            case topics.NodeLoad():
                self._site.hear(topic, message.payload, retained=message.retained)
                message.ack()
            case topics.NodeHave():
                self._supplies.hear(topic, message.payload)
                message.ack()
            case topics.AnswerDelta() | topics.AnswerFinal() | topics.CloudDelta() | topics.CloudFinal():
                self._relay.hear(topic, message.payload)
                message.ack()
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

    async def _drain(self) -> None:
        log.info("stopping", drain_s=self._config.limits.drain_s, running=self._models.num_running)
        self._models.refuse_all()
        self._presence.say()
        await self._models.drain(self._config.limits.drain_s)
        await self._post.flush(OFFLINE_WAIT_S)
        self._site.leave()
        said = self._presence.say_goodbye()
        if said is not None:
            await asyncio.wait([said], timeout=OFFLINE_WAIT_S)
        await self._link.close()

    # Requests.

    def _answering_for(self, request: Request) -> Answering:
        self._ward.quarantine.check(request)
        return self._models.answering_for(request)

    async def _purge(self) -> None:
        try:
            await self._journal.purge(now_ms(), self._config.journal.keep_s * 1000)
            if self._enrolled:
                await self._enrolled.purge()
        except StoreError as error:
            log.error("cannot purge the journal", why=str(error))

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._messages.add(task)
        task.add_done_callback(self._messages.discard)


def _redactor(config: Config) -> Redactor:
    try:
        return Redactor(config.privacy.names, config.privacy.patterns)
    except ValueError as error:
        raise ConfigError(f"cannot use [privacy] patterns: one {error}") from error


def now_ms() -> int:
    """The device's clock, ms since 1970."""
    return time.time_ns() // 1_000_000
