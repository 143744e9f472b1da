"""The daemon: makes the parts, connects them, starts and stops them in order.

    start: lock → store → journal's open requests → control socket → link ∥ engine
    stop:  draining → running requests end → outbox flushed → offline → link → engine → store
"""

import asyncio
import fcntl
import os
import resource
import signal
import time
import uuid
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from agent.answering import Answering
from agent.card import make_card, versions
from agent.config import Config
from agent.control import Control
from agent.engine import ladder
from agent.engine.frames import ToEngine
from agent.engine.supervisor import Plan, State, Supervisor
from agent.errors import ModelError, StoreError
from agent.intake import Intake
from agent.job import Job
from agent.link import Incoming, Link, Session
from agent.models import ModelFile, identify_model
from agent.post import Post
from agent.store.database import Database
from agent.store.facts import Facts
from agent.store.journal import Journal
from agent.store.outbox import Letter, Outbox, Priority
from contract import topics
from contract.answers import Delta, Final
from contract.errors import Refused
from contract.presence import NodeState
from contract.presence import State as Presence
from contract.requests import Request
from contract.status import Status
from contract.steering import Event

log = structlog.get_logger()

MODEL_RETRY_S = 30.0
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
        self._model: ModelFile | None = None
        self._problem = ""
        self._engine: Supervisor | None = None
        self._was_ready = False
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
        self._answering = Answering(
            node=config.node.id,
            model="none",
            parallel=config.engine.parallel,
            limits=config.limits,
            sampling=config.sampling,
            send=self._to_engine,
        )
        self._intake = Intake(
            fleet=config.node.fleet,
            default_ttl_ms=config.limits.ttl_ms,
            names=self._check_names,
            answering=self._answering,
            journal=self._journal,
            outbox=self._outbox,
            post=self._post,
            publish=self._link.publish,
            now_ms=now_ms,
        )
        self._control = Control(config.state_dir, status=self.status, ask=self._ask)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # Prompts are in memory: a core file would put them on disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        log.info("starting", node=self._config.node.id, fleet=self._config.node.fleet, **versions())
        await self._control.start()
        await self._identify()
        if again := await self._intake.take_up():
            log.info("requests from before the last stop run again", requests=again)
        scheduler = AsyncIOScheduler()
        scheduler.add_job(self._purge, "interval", seconds=PURGE_S)
        scheduler.start()
        link = asyncio.create_task(self._link.run(), name="link")
        engine = asyncio.create_task(self._keep_engine(), name="engine")
        await self._stopping.wait()
        scheduler.shutdown(wait=False)
        engine.cancel()
        await self._drain()
        link.cancel()
        await asyncio.gather(link, engine, return_exceptions=True)
        if self._engine:
            await self._engine.stop()
        await self._control.stop()
        self._database.close()
        log.info("stopped")

    def status(self) -> dict[str, Any]:
        """What `shoal-agent status` shows."""
        engine, process = self._engine, psutil.Process()
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
            "engine": {
                "state": engine.state.value if engine else State.BROKEN.value,
                "problem": self._problem or (engine.problem if engine and engine.state is State.BROKEN else ""),
                "pid": engine.pid if engine else None,
                "restarts": engine.num_restarts if engine else 0,
                "flags": engine.rung.name if engine else None,
                "model": self._model.label if self._model else None,
                **({"speed": msgspec.to_builtins(engine.ready)} if engine and engine.ready else {}),
            },
            "requests": {
                "waiting": self._answering.num_waiting,
                "running": self._answering.num_running,
                "ended": {str(int(code)): number for code, number in sorted(self._answering.num_ended.items())},
            },
            "outbox": self._outbox.waiting(),
            "memory_mib": round(process.memory_full_info().pss / 2**20, 1),
            "pid": process.pid,
        }

    # The engine.

    async def _keep_engine(self) -> None:
        """Starts the engine as soon as there is a model for it; a device may get its model later."""
        while self._model is None:
            self._answering.on_engine(State.BROKEN)
            self._say_presence()
            await asyncio.sleep(MODEL_RETRY_S)
            await self._identify()
        engine, model = self._config.engine, self._model
        fact = ladder.fact_name(model.sha256)
        self._engine = Supervisor(
            Plan(
                file=str(model.path),
                context_tokens=self._config.model.context_tokens,
                parallel=engine.parallel,
                threads=engine.threads or len(os.sched_getaffinity(0)),
                start_timeout_s=engine.start_timeout_s,
                stall_s=engine.stall_s,
            ),
            first_rung=ladder.start_of(self._facts.get(fact)),
            on_frame=self._answering.on_frame,
            on_state=self._on_engine_state,
            on_lost=self._on_engine_lost,
            on_rung=lambda rung: self._background(self._remember_rung(fact, rung)),
        )
        self._engine.start()

    async def _identify(self) -> None:
        try:
            self._model = await identify_model(self._config, self._facts)
        except (ModelError, StoreError) as error:
            if str(error) != self._problem:
                log.error("no model to serve", why=str(error), retry_s=MODEL_RETRY_S)
            self._problem = str(error)
        else:
            self._problem = ""
            self._answering.model = self._model.label

    async def _remember_rung(self, fact: str, rung: ladder.Rung) -> None:
        if self._facts.get(fact) != rung.name:
            await self._facts.put(fact, rung.name)

    def _to_engine(self, frame: ToEngine) -> None:
        if self._engine:
            self._engine.send(frame)

    def _on_engine_state(self, state: State) -> None:
        if state is State.READY and self._engine and self._engine.ready:
            self._was_ready = True
            ready = self._engine.ready
            log.info("engine is ready", load_ms=round(ready.load_ms), decode_tok_s=round(ready.decode_tok_s, 1))
        if state is State.BROKEN:
            self._was_ready = False
        self._answering.on_engine(state)
        self._say_presence()
        if state is State.READY:
            self._say_card()

    def _on_engine_lost(self) -> None:
        self._answering.on_lost()
        self._background(self._alert("engine_died", {"restarts": self._engine.num_restarts if self._engine else 0}))

    # The broker.

    async def _new_session(self) -> Session:
        try:
            self._session = await self._facts.count_up("session")
        except StoreError as error:
            log.error("cannot count connections", why=str(error))
            self._session += 1
        node, fleet = self._config.node.id, self._config.node.fleet
        filters = [topics.NodeRequest.filter(fleet, node=node), topics.NodeCancel.filter(fleet, node=node)]
        for pool in self._config.node.pools:
            filters += [topics.PoolRequest.shared_filter(fleet, pool), topics.PoolCancel.filter(fleet, pool=pool)]
        return Session(filters, self._status_topic(), self._state("lost"))

    def _on_connected(self) -> None:
        self._say_presence()
        self._say_card()
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
        if self._answering.draining:
            return "draining"
        state = self._engine.state if self._engine else State.BROKEN
        # An engine that is replaced after a crash is back in a second: not worth a change of presence.
        is_up = state is State.READY or (state is State.STARTING and self._was_ready)
        return "online" if is_up else "degraded"

    def _say_presence(self) -> None:
        self._link.publish(self._status_topic(), self._state(self._presence()), qos=1, retain=True)

    def _say_card(self) -> None:
        ready = self._engine.ready if self._engine else None
        card = make_card(self._config, self._model, ready, now_ms())
        topic = topics.NodeCard(self._config.node.id).path(self._config.node.fleet)
        self._link.publish(topic, msgspec.json.encode(card), qos=1, retain=True)

    async def _alert(self, name: str, data: dict[str, Any]) -> None:
        event = Event(eid=uuid.uuid4().hex, ts=now_ms(), name=name, data=data)
        topic = topics.NodeEvent(self._config.node.id, "alert").path(self._config.node.fleet)
        await self._post.write(Letter(topic, msgspec.json.encode(event), priority=Priority.EVENT))

    def _status_topic(self) -> str:
        return topics.NodeStatus(self._config.node.id).path(self._config.node.fleet)

    def _state(self, state: Presence) -> bytes:
        return msgspec.json.encode(NodeState(state, self._session, now_ms()))

    async def _drain(self) -> None:
        log.info("stopping", drain_s=self._config.limits.drain_s, running=self._answering.num_running)
        self._answering.draining = True
        self._say_presence()
        await self._answering.drain(self._config.limits.drain_s)
        await self._post.flush(OFFLINE_WAIT_S)
        said = self._link.publish(self._status_topic(), self._state("offline"), qos=1, retain=True)
        if said is not None:
            await asyncio.wait([said], timeout=OFFLINE_WAIT_S)
        await self._link.close()

    # Requests.

    def _check_names(self, request: Request) -> None:
        if request.task != "generate":
            raise Refused(
                Status.INVALID, "task", f"cannot run task {request.task!r}: this node runs 'generate'",
                request_id=request.id,
            )  # fmt: skip
        if request.model is not None and not (self._model and self._model.is_named(request.model)):
            here = self._model.label if self._model else "no model"
            raise Refused(
                Status.NOT_FOUND, "model", f"cannot find model {request.model!r}: this node has {here}",
                request_id=request.id,
            )  # fmt: skip
        if isinstance(request.adapter, str):
            raise Refused(
                Status.NOT_FOUND, "adapter", f"cannot find adapter {request.adapter!r}: this node has none",
                request_id=request.id,
            )  # fmt: skip

    def _ask(self, request: Request, on_delta: Any, on_final: Any) -> None:
        """A request from the control socket: not journaled, because who asks waits for it."""
        self._check_names(request)
        self._answering.check_admission("local")

        async def end(final: Final) -> None:
            on_final(final)

        def piece(delta: Delta) -> None:
            on_delta(delta)

        now = time.monotonic()
        self._answering.submit(
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
        file = open(state_dir / "agent.lock", "a+", encoding="utf-8")  # noqa: SIM115  # held open for life
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
