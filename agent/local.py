"""One model of this node: the engine process that runs it while it is in use, and the requests it answers."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import structlog

from agent import machine
from agent.adapters import AdapterShelf
from agent.answering import Answering
from agent.config import Config, Limits
from agent.engine import frames, ladder
from agent.engine.address_space import address_space_bytes
from agent.engine.death import Death
from agent.engine.supervisor import Plan, State, Supervisor
from agent.errors import AgentError, StoreError
from agent.memory import MIB, Need
from agent.models import ModelFile
from agent.quarantine import Quarantine
from agent.store.facts import Facts
from agent.supply import Supply
from agent.tally import Tally
from contract.presence import ModelInfo
from contract.telemetry import EngineState

log = structlog.get_logger()


class LocalModel:
    """Keeps an engine running for a model file from `wake` to `sleep`, and answers with it.

    `on_change` is called when presence or card may have changed, `on_alert` with the name and data of an event that
    the operator should hear of. Both run in the event loop.
    """

    def __init__(
        self,
        config: Config,
        facts: Facts,
        model: ModelFile,
        adapters: AdapterShelf,
        parallel: int,
        *,
        has_room_for_slots: Callable[["LocalModel", Need], bool] = lambda _, __: True,
        limits: Callable[[], Limits] | None = None,
        tally: Tally | None = None,
        kept_adapters: Callable[[], set[str]] = set,
        quarantine: Quarantine | None = None,
        on_change: Callable[[], None] = lambda: None,
        on_alert: Callable[[str, dict[str, Any]], None] = lambda _, __: None,
        on_crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`limits` hold in place of the configured ones; `kept_adapters` are digests that stay in memory; `on_crash`
        hears the model's label when its engine died, or cannot run.
        """
        self._config = config
        self._facts = facts
        self._adapters = adapters
        self.parallel = parallel
        self._has_room_for_slots = has_room_for_slots
        self._on_change = on_change
        self._on_alert = on_alert
        self._on_crash = on_crash
        self._engine: Supervisor | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._facts_to_store: set[asyncio.Task[None]] = set()
        self._was_ready = False
        self._said_broken = False
        self._used = time.monotonic()
        self.model = model
        self.problem = ""
        self._has_slots = False
        self._slots_crash = False
        self.broken_at: float | None = None  # monotonic seconds
        self.answering = Answering(
            node=config.node.id,
            model=model.label,
            parallel=parallel,
            limits=limits or (lambda: config.limits),
            sampling=config.sampling,
            manner=model.manner,
            find_adapter=lambda reference: adapters.find(reference, self.model.sha256),
            quarantine=quarantine or Quarantine(),
            send=self._send,
            has_adapter=lambda sha256: self._supply.has(sha256),  # noqa: PLW0108  # it is made below
            tally=tally,
        )
        self._supply = Supply(
            open_adapter=adapters.open,
            budget_bytes=config.store.resident_mib * MIB,
            in_use=lambda: self.answering.adapters_in_use | kept_adapters(),
            waiting=lambda: self.answering.adapters_waiting,
            on_rejected=self.answering.on_frame,
            on_given=self._make_slots,
        )

    @property
    def ready(self) -> frames.Ready | None:
        """What the engine said of itself, while it is ready."""
        return self._engine.ready if self._engine else None

    @property
    def pid(self) -> int | None:
        """The process id of the engine, while it runs."""
        return self._engine.pid if self._engine else None

    @property
    def is_alive(self) -> bool:
        """Whether its engine, if it has one, is listened to."""
        return self._engine is None or self._engine.is_alive

    @property
    def rung(self) -> str | None:
        """The name of the load flags with which its engine runs, while it does."""
        return self._engine.rung.name if self._engine and self.ready else None

    @property
    def is_awake(self) -> bool:
        """Whether an engine runs or is about to: it counts as loaded."""
        return self._engine is not None and self.broken_at is None

    @property
    def is_up(self) -> bool:
        """Whether it answers. An engine that is replaced after a crash is back in a second, so it counts as up."""
        state = self._engine.state if self._engine and self.broken_at is None else State.BROKEN
        return state is State.READY or (state is State.STARTING and self._was_ready)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not (self.answering.num_waiting or self.answering.num_running)

    @property
    def resident(self) -> dict[str, int]:
        """Bytes of the adapters that its engine has, by digest."""
        return self._supply.resident

    @property
    def need(self) -> Need:
        """What its engine takes in memory."""
        need = self.model.need(
            context_tokens=self._config.model.context_tokens,
            parallel=self.parallel,
            batch_tokens=frames.BATCH_TOKENS,
            num_slots=self._config.engine.adapter_slots if self._has_slots else 0,
        )
        return msgspec.structs.replace(need, margin_bytes=need.margin_bytes + sum(self.resident.values()))

    def idle_s(self, now: float) -> float:
        """How long it has had nothing to do; looked at often enough, it misses nothing."""
        if not self.is_idle:
            self._used = now
        return now - self._used

    def touch(self) -> None:
        """It is being used now."""
        self._used = time.monotonic()

    def wake(self, after: Iterable[asyncio.Task[None]] = ()) -> None:
        """Starts an engine, once those in `after` are gone from memory. Does nothing when there is one."""
        if self.is_awake:
            return
        before = [*after, *([self._stopping] if self._stopping else [])]
        self.problem, self.broken_at = "", None
        self.touch()
        self._engine = self._make_engine(self.model)
        self.answering.on_engine(State.STARTING)
        self._starting = asyncio.create_task(self._start(self._engine, before), name=f"start {self.model.label}")

    def sleep(self) -> asyncio.Task[None]:
        """Ends the engine, if there is one; the task it returns ends with it. For a model that has nothing to do."""
        engine, self._engine = self._engine, None
        starting, self._starting = self._starting, None
        self._was_ready, self.broken_at = False, None
        if starting:
            starting.cancel()
        self.answering.on_engine(State.STOPPED)
        before = self._stopping

        async def end() -> None:
            if before:
                await before
            if engine:
                await engine.stop()

        self._stopping = asyncio.create_task(end(), name=f"stop {self.model.label}")
        return self._stopping

    def restart(self) -> None:
        """Replaces the engine's process, also one that hangs; what ran runs again. A broken engine has another try."""
        if self._engine is not None and self.pid is not None:
            self._engine.kill()
        elif self.broken_at is not None:
            self.sleep()
            self.wake()

    def fail(self, problem: str) -> None:
        """It cannot run for now: what waits for it is refused."""
        if problem != self.problem:
            log.error("model cannot run", model=self.model.label, why=problem)
        self.tell_broken(problem)
        self.problem, self.broken_at, self._was_ready = problem, time.monotonic(), False
        self.answering.on_engine(State.BROKEN)
        self._on_crash(self.model.label)
        self._on_change()

    def tell_broken(self, problem: str) -> None:
        """Tells the operator once that it does not run; when it does again, that is told too."""
        if not self._said_broken:
            self._said_broken = True
            self._on_alert("engine_state", {"model": self.model.label, "state": "broken", "problem": problem})

    def replace(self, model: ModelFile) -> None:
        """From the next engine on, another file. For a model that has nothing to do."""
        self.sleep()
        self.model, self.problem = model, ""
        self.answering.model, self.answering.manner = model.label, model.manner

    async def wait_ready(self) -> frames.Ready:
        """Starts an engine and waits until it is ready. For commands; a daemon goes on without.

        Raises:
            EngineError: it does not run.
        """
        self.wake()
        assert self._engine is not None  # noqa: S101  # `wake` makes one
        return await self._engine.wait_ready()

    @property
    def state(self) -> EngineState:
        """Where its engine stands."""
        if self.broken_at is not None:
            return "broken"
        state: EngineState = self._engine.state.value if self._engine else "asleep"
        return state

    def describe(self) -> dict[str, Any]:
        """Its part of `shoal-agent status`."""
        engine = self._engine
        return {
            "state": self.state,
            "problem": self.problem,
            "pid": self.pid,
            "restarts": engine.num_restarts if engine else 0,
            "flags": engine.rung.name if engine else None,
            "network_isolated": self.ready.network_isolated if self.ready else None,
            "model": self.model.label,
            "task": self.model.task,
            "parallel": self.parallel,
            "slots": msgspec.to_builtins(engine.slots) if engine and engine.slots else None,
            "speed": msgspec.to_builtins(self.ready) if self.ready else None,
        }

    def card(self) -> ModelInfo:
        """Its part of the node's card."""
        wanted = self._config.model.context_tokens
        return ModelInfo(
            name=self.model.name,
            version=self.model.version,
            sha256=self.model.sha256,
            bytes=self.model.bytes,
            architecture=self.model.base.architecture,
            context_tokens=self.ready.context_tokens if self.ready else self.model.context_tokens(wanted),
            parallel=self.parallel,
            task=self.model.task,
            dimensions=self.model.base.embedding_length if self.model.task == "embed" else None,
        )

    async def _start(self, engine: Supervisor, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)  # not gather: its end would end them too
        engine.start()

    def _make_engine(self, model: ModelFile) -> Supervisor:
        settings = self._config.engine
        threads = settings.threads or machine.num_cores()
        fact = ladder.fact_name(model.sha256)
        try:
            remembered = self._facts.get(fact)
        except StoreError:
            remembered = None
        engine = Supervisor(
            Plan(
                file=str(model.path),
                sha256=model.sha256,
                context_tokens=model.context_tokens(self._config.model.context_tokens),
                parallel=self.parallel,
                threads=threads,
                prefix_cache_bytes=settings.prefix_cache_mib * MIB,
                cache_dir=str(self._config.state_dir / "cache"),
                # Twice: as it is, and in the form with adapter slots.
                address_space_bytes=address_space_bytes(
                    weights_bytes=2 * model.bytes,
                    kv_bytes=2 * self.need.kv_bytes + settings.prefix_cache_mib * MIB,
                    threads=threads,
                ),
                start_timeout_s=settings.start_timeout_s,
                stall_s=settings.stall_s,
                chat_template=model.manner.chat_template,
                unit_socket=settings.socket,
            ),
            first_rung=ladder.start_of(remembered),
            on_frame=self.answering.on_frame,
            on_state=lambda state: self._on_state(engine, state),
            on_lost=lambda death: self._on_lost(engine, death),
            on_rung=lambda rung: self._remember(fact, rung.name),
        )
        return engine

    def _send(self, frame: frames.ToEngine) -> None:
        if self._engine:
            if isinstance(frame, frames.Generate) and frame.adapter is not None:
                self._adapters.note_use(frame.adapter)
            self._supply.send(self._engine, frame)

    def _make_slots(self) -> None:
        """Lets adapters decode together from the first one on, if there is room. Until then they take turns."""
        if self._has_slots or not self._config.engine.adapter_slots or self._slots_crash or not self._engine:
            return
        self._has_slots = True
        if self._has_room_for_slots(self, self.need):
            self._engine.send(frames.MakeSlots(self._config.engine.adapter_slots))
        else:
            self._has_slots = False

    def _on_state(self, engine: Supervisor, state: State) -> None:
        if engine is not self._engine:  # one that is being ended
            return
        if state is State.BROKEN:
            self.fail(engine.problem)
            return
        if state is State.STARTING:
            self._supply.clear()
            self._has_slots = False
        if state is State.READY and self.ready:
            self._was_ready = True
            if self._said_broken:
                self._said_broken = False
                self._on_alert("engine_state", {"model": self.model.label, "state": "ready", "problem": ""})
            log.info(
                "engine is ready",
                model=self.model.label,
                load_ms=round(self.ready.load_ms),
                decode_tok_s=round(self.ready.decode_tok_s, 1),
                network_isolated=self.ready.network_isolated,
            )
        self.answering.on_engine(state)
        self._on_change()

    def _on_lost(self, engine: Supervisor, death: Death) -> None:
        if engine.slots_pending:
            # Like load flags, the form with slots may crash on some machine. What died beside it is not to blame.
            log.error("engine died while it made adapter slots; adapters take turns", model=self.model.label)
            engine.slots_pending, self._slots_crash = False, True
        if engine is self._engine:
            self.answering.on_lost(death)
            restarts = engine.num_restarts
            self._on_alert("engine_died", {"model": self.model.label, "restarts": restarts, "death": death.value})
            self._on_crash(self.model.label)

    def _remember(self, fact: str, rung: str) -> None:
        async def put() -> None:
            try:
                if self._facts.get(fact) != rung:
                    await self._facts.put(fact, rung)
            except AgentError as error:
                log.error("cannot remember which load flags work", why=str(error))

        task = asyncio.create_task(put())
        self._facts_to_store.add(task)
        task.add_done_callback(self._facts_to_store.discard)
