"""The node's own model: its file, the engine process that runs it, and the requests it answers."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from agent.answering import Answering
from agent.config import Config
from agent.engine import ladder
from agent.engine.frames import Ready, ToEngine
from agent.engine.supervisor import Plan, State, Supervisor
from agent.errors import AgentError, ModelError, StoreError
from agent.models import ModelFile, find_model, identify_model, mark_of
from agent.store.facts import Facts
from contract.errors import Refused
from contract.requests import Request
from contract.status import Status

log = structlog.get_logger()

RETRY_S = 60.0  # a model that cannot run is tried again: what it lacked (memory, a library) may be there now
LOOK_S = 1.0  # a file that was put in its place is noticed within two of these


class LocalModel:
    """Finds the model, keeps an engine running for it, and answers with it.

    `on_change` is called when presence or card may have changed, `on_alert` with the name and data of an event that
    the operator should hear of. Both run in the event loop.
    """

    def __init__(
        self,
        config: Config,
        facts: Facts,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_alert: Callable[[str, dict[str, Any]], None] = lambda _, __: None,
    ) -> None:
        self._config = config
        self._facts = facts
        self._on_change = on_change
        self._on_alert = on_alert
        self._engine: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None
        self._facts_to_store: set[asyncio.Task[None]] = set()
        self._was_ready = False
        self._problem = ""
        self._mark = ""  # of the file that `identify` found
        self.model: ModelFile | None = None
        self.answering = Answering(
            node=config.node.id,
            model="none",
            parallel=config.engine.parallel,
            limits=config.limits,
            sampling=config.sampling,
            send=self._send,
        )

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself, while it is ready."""
        return self._engine.ready if self._engine else None

    @property
    def is_up(self) -> bool:
        """Whether it answers. An engine that is replaced after a crash is back in a second, so it counts as up."""
        state = self._engine.state if self._engine else State.BROKEN
        return state is State.READY or (state is State.STARTING and self._was_ready)

    async def identify(self) -> None:
        """Looks for the model file. That there is none is remembered as the problem, and looked for again."""
        self._mark = self._look()
        try:
            self.model = await identify_model(self._config, self._facts)
        except (ModelError, StoreError) as error:
            if str(error) != self._problem:
                log.error("no model to serve", why=str(error), retry_s=RETRY_S)
            self._problem = str(error)
        else:
            self._problem = ""
            self.answering.model = self.model.label

    def start(self) -> None:
        """Begins to keep an engine running, as soon as there is a model for it."""
        self._task = asyncio.create_task(self._run(), name="local-model")

    async def stop(self) -> None:
        """Ends the engine."""
        if self._task:
            self._task.cancel()
        if self._engine:
            await self._engine.stop()

    async def wait_ready(self) -> Ready:
        """Starts, and waits until the engine is ready. For commands; a daemon goes on without.

        Raises:
            AgentError: there is no model, or its engine does not run.
        """
        await self.identify()
        if self.model is None:
            raise ModelError(self._problem)
        return await self._supervise(self.model).wait_ready()

    def check_names(self, request: Request) -> None:
        """Whether model, adapter and task of a request are here.

        Raises:
            Refused: 404 or 400.
        """

        def refuse(status: Status, code: str, message: str) -> None:
            raise Refused(status, code, message, request_id=request.id)

        if request.task != "generate":
            refuse(Status.INVALID, "task", f"cannot run task {request.task!r}: this node runs 'generate'")
        if request.model is not None and not (self.model and self.model.is_named(request.model)):
            here = self.model.label if self.model else "no model"
            refuse(Status.NOT_FOUND, "model", f"cannot find model {request.model!r}: this node has {here}")
        if isinstance(request.adapter, str):
            refuse(Status.NOT_FOUND, "adapter", f"cannot find adapter {request.adapter!r}: this node has none")

    def describe(self) -> dict[str, Any]:
        """The engine's part of `shoal-agent status`."""
        engine = self._engine
        state = engine.state if engine else State.BROKEN
        return {
            "state": state.value,
            "problem": self._problem or (engine.problem if engine and state is State.BROKEN else ""),
            "pid": engine.pid if engine else None,
            "restarts": engine.num_restarts if engine else 0,
            "flags": engine.rung.name if engine else None,
            "model": self.model.label if self.model else None,
            "speed": msgspec.to_builtins(self.ready) if self.ready else None,
        }

    async def _run(self) -> None:
        while True:
            if self._problem or self.model is None:
                self.answering.on_engine(State.BROKEN)
                self._on_change()
            else:
                await self._supervise(self.model).wait_broken()
            await self._wait_for_change()
            await self.identify()

    async def _wait_for_change(self) -> None:
        """Until another model file is there and whole, or it is time to try again all the same."""
        until = time.monotonic() + RETRY_S
        last = self._mark
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            now = self._look()
            if now != self._mark and now == last:  # it does not grow any more
                return
            last = now

    def _look(self) -> str:
        """What tells the file that is there now from another, or nothing."""
        try:
            return mark_of(find_model(self._config))
        except (ModelError, OSError):
            return ""

    def _supervise(self, model: ModelFile) -> Supervisor:
        engine = self._config.engine
        fact = ladder.fact_name(model.sha256)
        try:
            remembered = self._facts.get(fact)
        except StoreError:
            remembered = None
        self._engine = Supervisor(
            Plan(
                file=str(model.path),
                context_tokens=self._config.model.context_tokens,
                parallel=engine.parallel,
                threads=engine.threads or len(os.sched_getaffinity(0)),
                start_timeout_s=engine.start_timeout_s,
                stall_s=engine.stall_s,
            ),
            first_rung=ladder.start_of(remembered),
            on_frame=self.answering.on_frame,
            on_state=self._on_state,
            on_lost=self._on_lost,
            on_rung=lambda rung: self._remember(fact, rung.name),
        )
        self._engine.start()
        return self._engine

    def _send(self, frame: ToEngine) -> None:
        if self._engine:
            self._engine.send(frame)

    def _on_state(self, state: State) -> None:
        if state is State.READY and self.ready:
            self._was_ready = True
            log.info(
                "engine is ready", load_ms=round(self.ready.load_ms), decode_tok_s=round(self.ready.decode_tok_s, 1)
            )
        if state is State.BROKEN:
            self._was_ready = False
        self.answering.on_engine(state)
        self._on_change()

    def _on_lost(self) -> None:
        self.answering.on_lost()
        self._on_alert("engine_died", {"restarts": self._engine.num_restarts if self._engine else 0})

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
