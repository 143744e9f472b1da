"""All models of this node: which of them answers a request, and which of them are loaded.

The default model is loaded from the start; others are loaded for their first request, and unloaded when nobody has
used them for a while or another one needs the room. One engine process each, so a crash concerns one model.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog

from agent import machine
from agent.adapters import AdapterShelf
from agent.answering import Answering
from agent.config import Config, Limits
from agent.engine.frames import Ready
from agent.errors import EngineError, ModelError
from agent.local import LocalModel
from agent.memory import MIB, Loaded, Need, NoRoomError, budget_bytes, make_room, num_parallel
from agent.models import Manner, ModelFile
from agent.quarantine import Quarantine
from agent.routing import Served, choose_model
from agent.shelf import Shelf
from agent.store.facts import Facts
from agent.tally import Tally
from contract.errors import Refused
from contract.presence import AdapterInfo, ModelInfo
from contract.requests import Request
from contract.status import Status

log = structlog.get_logger()

LOOK_S = 1.0  # a file that was put in its place is noticed within two of these
RETRY_S = 60.0  # a model that cannot run is tried again: what it lacked (memory, a library) may be there now
NO_ROOM_RETRY_MS = 60_000
NO_ENGINE_RETRY_MS = 30_000
DRAINED_RETRY_MS = 60_000
READY_LOOK_S = 0.1
VACATE_S = 120.0  # what runs may take so long until a guest gives up


class Catalog:
    """Finds the models, and keeps one `LocalModel` for each.

    `on_change` is called when presence or card may have changed, `on_alert` with the name and data of an event that
    the operator should hear of. While it is `closed` nothing new is taken, and what was taken goes on.
    """

    def __init__(
        self,
        config: Config,
        facts: Facts,
        *,
        limits: Callable[[], Limits] | None = None,
        kept_adapters: Callable[[], set[str]] = set,
        tally: Tally | None = None,
        quarantine: Quarantine | None = None,
        on_change: Callable[[], None] = lambda: None,
        on_alert: Callable[[str, dict[str, Any]], None] = lambda _, __: None,
        on_crash: Callable[[str], None] = lambda _: None,
        manner_of: Callable[[str], Manner] = lambda _: Manner(),
        active_adapters: Callable[[], list[str]] = list,
        available_bytes: Callable[[], int] = machine.available_bytes,
    ) -> None:
        """`limits` hold in place of the configured ones. `kept_adapters` are digests that never make room for others.
        `manner_of` knows of models of releases how they answer. `available_bytes` is what the machine could give now.
        """
        self._config = config
        self._facts = facts
        self._limits = limits
        self._kept_adapters = kept_adapters
        self._tally = tally
        self._quarantine = quarantine
        self._on_change = on_change
        self._on_alert = on_alert
        self._on_crash = on_crash
        self._available_bytes = available_bytes
        self._shelf = Shelf(config, facts, manner_of)
        self._adapters = AdapterShelf(
            config.state_dir,
            budget_bytes=config.store.adapters_mib * MIB,
            allow_unfit=config.store.allow_unfit,
            bases=self._shelf.bases,
            in_use=lambda: self.adapters_in_use,
            active=active_adapters,
        )
        self._models: dict[Path, LocalModel] = {}
        self._leaving: list[LocalModel] = []  # their files are gone; they end what they have begun
        self._ended: Counter[int] = Counter()  # of models that are gone
        self._task: asyncio.Task[None] | None = None
        self._arriving: LocalModel | None = None  # is to be the default once it is ready
        self._guest: Loaded | None = None  # an engine that is none of these
        self._is_vacated = False  # no engine may be started: the guest has the room of all
        self._draining = False
        self.closed = False

    # What there is.

    @property
    def default(self) -> LocalModel | None:
        """The model that answers requests without a name."""
        return self._models.get(self._shelf.default) if self._shelf.default else None

    @property
    def is_up(self) -> bool:
        """Whether requests are answered: by the default model, or where there is none, by the one they name."""
        if self.default is not None:
            return self.default.is_up
        return bool(self._models) and not self._shelf.problem

    @property
    def configured(self) -> ModelFile | None:
        """The default model that the node's own configuration means."""
        return self._shelf.files.get(self._shelf.configured) if self._shelf.configured else None

    @property
    def files(self) -> list[ModelFile]:
        """All models."""
        return list(self._shelf.files.values())

    @property
    def models(self) -> list[LocalModel]:
        """All models, the default first."""
        return sorted(self._models.values(), key=lambda local: (local is not self.default, local.model.label))

    @property
    def problem(self) -> str:
        """Why there is no default, when there should be one."""
        return self._shelf.problem

    @property
    def problems(self) -> dict[Path, str]:
        """Why files cannot be used as models."""
        return self._shelf.problems

    @property
    def adapters(self) -> AdapterShelf:
        """All adapters."""
        return self._adapters

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining or self.closed

    @property
    def is_alive(self) -> bool:
        """Whether all engines are listened to, and would be replaced if they hung."""
        return all(local.is_alive for local in self._all())

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return all(local.is_idle for local in self._all())

    @property
    def num_waiting(self) -> int:
        """Requests that have not reached an engine."""
        return sum(local.answering.num_waiting for local in self._all())

    @property
    def num_running(self) -> int:
        """Requests in engines."""
        return sum(local.answering.num_running for local in self._all())

    @property
    def num_ended(self) -> dict[int, int]:
        """How many requests ended, by status."""
        return dict(sum((Counter(local.answering.num_ended) for local in self._all()), self._ended))

    def cards(self) -> list[ModelInfo]:
        """The models' part of the card, the default first."""
        return [local.card() for local in self.models if not local.problem]

    def adapter_cards(self) -> list[AdapterInfo]:
        """The card's adapters, once for each model they fit."""
        return [card for local in self.models for card in self._adapters.cards(local.model.sha256)]

    @property
    def adapters_in_use(self) -> set[str]:
        """Digests of adapters that must stay: requests run with them, or they are kept."""
        return {sha256 for local in self._all() for sha256 in local.answering.adapters_in_use} | self._kept_adapters()

    @property
    def resident_adapters(self) -> dict[str, int]:
        """Bytes that engines hold of each adapter, by digest."""
        total: Counter[str] = Counter()
        for local in self._all():
            total.update(local.resident)
        return dict(total)

    # Life.

    async def look(self) -> None:
        """Looks for the model files. That there is none is remembered as the problem, and looked for again."""
        await self._shelf.look(at_once=True)
        await self._adapters.look(at_once=True)
        self._follow()

    def start(self) -> None:
        """Begins to keep the default model running and to look after the others."""
        self._task = asyncio.create_task(self._run(), name="models")

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing new and gives running requests `timeout_s` to end. Waiting ones are left to the journal."""
        self.refuse_all()
        await asyncio.gather(*(local.answering.drain(timeout_s) for local in self._all()))

    def refuse_all(self) -> None:
        """From now on nothing new is taken."""
        self._draining = True
        for local in self._all():
            local.answering.draining = True

    async def stop(self) -> None:
        """Ends all engines."""
        if self._task:
            self._task.cancel()
        if ends := [local.sleep() for local in self._all()]:
            await asyncio.wait(ends)
        await self._adapters.close()

    async def wait_ready(self, request: Request | None = None) -> tuple[LocalModel, Ready]:
        """Starts the engine for a request, or the default one, and waits for it. For commands.

        Raises:
            AgentError: there is no model for it, or its engine does not run.
            Refused: as for `answering_for`.
        """
        await self.look()
        if request is None and self.default is None:
            raise ModelError(self.problem or f"cannot choose a model: this node has {self._names()}")
        local = self.default if request is None else self.choose(request)
        if local is None:
            raise ModelError(self._shelf.problem)
        self._wake(local)
        return local, await local.wait_ready()

    # Requests.

    def answering_for(self, request: Request) -> Answering:
        """Where a request is answered; the engine for it is started when it does not run.

        Raises:
            Refused: 404, 400, 503 or 507.
        """
        if self.closed:
            raise Refused(
                Status.UNAVAILABLE, "draining", "cannot take the request: the node's operator drains it",
                retry_after_ms=DRAINED_RETRY_MS, request_id=request.id,
            )  # fmt: skip
        try:
            local = self.choose(request)
            if local is None:
                raise Refused(
                    Status.UNAVAILABLE,
                    "engine",
                    "cannot take the request: no engine runs on this node",
                    retry_after_ms=NO_ENGINE_RETRY_MS,
                )
            if not self._draining and local.broken_at is None:
                self._wake(local)
        except NoRoomError as error:
            raise Refused(
                Status.NO_SPACE, "memory", str(error), retry_after_ms=NO_ROOM_RETRY_MS, request_id=request.id
            ) from None
        except Refused as no:
            no.request_id = request.id
            raise
        local.touch()
        return local.answering

    def choose(self, request: Request) -> LocalModel | None:
        """The model for a request; None when there is none at all, or the configured one is missing.

        Raises:
            Refused: 404 or 400.
        """
        served = {
            Served(local.model.name, local.model.version, local.model.task, local is self.default): local
            for local in self.models
        }
        if request.model is None and (not served or (request.task == "generate" and self._shelf.problem)):
            return None
        local = served[choose_model(request.model, request.task, list(served))]
        if isinstance(request.adapter, str):
            self._adapters.find(request.adapter, local.model.sha256)
        return local

    # The default model.

    def prefer(self, label: str | None) -> None:
        """From now on this model is the default while it is here; None: the configured one."""
        self._shelf.prefer(label)
        self._on_change()

    async def change_default(self, label: str) -> None:
        """Makes a model the default once its engine is ready. Where it does not fit beside the present one, it is the
        default at once, and what comes meanwhile waits for it.

        Raises:
            AgentError: it is not here, or its engine does not run.
        """
        local = next((one for one in self._models.values() if one.model.label == label), None)
        if local is None:
            raise ModelError(f"cannot make {label!r} the default model: this node has {self._names()}")
        self._arriving = local
        try:
            if local.broken_at is not None:
                await local.sleep()  # a wish is a reason to try again
            with contextlib.suppress(NoRoomError):  # the default may end others for it, once these have nothing to do
                self._wake(local)
                await self._until_ready(local)
            self.prefer(label)
            await self._until_ready(local)
        finally:
            self._arriving = None

    async def restart_default(self) -> tuple[LocalModel, Ready]:
        """Replaces the engine of the default model; what ran runs again. Returns when the new one is ready.

        Raises:
            AgentError: there is no default model, or its engine does not run.
        """
        local = self.default
        if local is None:
            raise ModelError(self.problem or f"cannot restart an engine: this node has {self._names()}")
        before = local.ready
        local.restart()
        return local, await self._until_ready(local, other_than=before)

    async def _until_ready(self, local: LocalModel, other_than: Ready | None = None) -> Ready:
        while local.ready is None or local.ready is other_than:
            if local.broken_at is not None:
                raise EngineError(local.problem)
            await asyncio.sleep(READY_LOOK_S)
        return local.ready

    # Memory.

    def _wake(self, local: LocalModel) -> None:
        """Starts a model's engine, and ends idle ones when they are in its way.

        Raises:
            NoRoomError: it does not fit.
        """
        if not local.is_awake and not self._is_vacated:
            local.wake(after=self._make_room(local.model.label, local.need))

    def _make_room(self, label: str, need: Need) -> list[asyncio.Task[None]]:
        """Ends idle engines so that one more fits; the room is there when these tasks have ended.

        Raises:
            NoRoomError: it does not fit.
        """
        awake = [other for other in self._all() if other.is_awake]
        now = time.monotonic()
        loaded = [
            Loaded(other.model.label, other.need, other.idle_s(now) if self._may_end(other) else None)
            for other in awake
        ]
        guests = [self._guest] if self._guest else []
        ending = make_room(label, need, self._budget(awake), loaded + guests)
        others = [other for other in awake if other.model.label in ending]
        if others:
            log.info("models make room", model=label, unloaded=ending)
        return [other.sleep() for other in others]

    @contextlib.asynccontextmanager
    async def guest(self, label: str, need: Need) -> AsyncIterator[None]:
        """Room for an engine that is none of these. Where it does not fit beside them, they end for it once they have
        nothing to do, what is asked meanwhile waits, and the default model comes back afterwards.

        Raises:
            NoRoomError: it does not fit, whatever ends.
            EngineError: what runs does not end.
        """
        try:
            try:
                ending = self._make_room(label, need)
            except NoRoomError:
                ending = await self._vacate(label, need)
            self._guest = Loaded(label, need, None)
            if ending:
                await asyncio.wait(ending)
            yield
        finally:
            was_vacated, self._is_vacated, self._guest = self._is_vacated, False, None
            for local in self._all():
                local.answering.hold(held=False)
            if was_vacated:
                self._tend(time.monotonic())

    async def _vacate(self, label: str, need: Need) -> list[asyncio.Task[None]]:
        make_room(label, need, self.budget_bytes, [])
        log.info("all models make room", model=label)
        for local in self._all():
            local.answering.hold(held=True)
        deadline = time.monotonic() + VACATE_S
        while any(local.answering.num_running for local in self._all()):
            if time.monotonic() > deadline:
                raise EngineError(f"cannot make room for {label}: requests have been running for {VACATE_S:g} s")
            await asyncio.sleep(READY_LOOK_S)
        self._is_vacated = True
        return [local.sleep() for local in self._all() if local.is_awake]

    @property
    def budget_bytes(self) -> int:
        """What all engines together may take."""
        return self._budget([other for other in self._all() if other.is_awake])

    def _has_room_for_slots(self, local: LocalModel, need: Need) -> bool:
        """Whether a model that runs may take what it `need`s with adapter slots, as others are now."""
        awake = [other for other in self._all() if other.is_awake]
        loaded = [Loaded(other.model.label, other.need, None) for other in awake if other is not local]
        try:
            make_room(local.model.label, need, self._budget(awake), loaded + ([self._guest] if self._guest else []))
        except NoRoomError as error:
            log.warning("no room for adapter slots: adapters take turns", why=str(error))
            return False
        return True

    def _num_parallel(self, file: ModelFile) -> int:
        one = file.need(context_tokens=self._config.model.context_tokens, parallel=1, batch_tokens=0)
        return self._config.engine.parallel or num_parallel(one.kv_bytes, self._budget([]))

    def _budget(self, awake: list[LocalModel]) -> int:
        held = sum(machine.anonymous_bytes(other.pid) for other in awake if other.pid)
        return budget_bytes(self._config.engine.memory_mib, self._available_bytes(), held)

    def _may_end(self, local: LocalModel) -> bool:
        return local not in (self.default, self._arriving) and local.is_idle

    # Looking after them.

    async def _run(self) -> None:
        while not self._draining:
            self._tend(time.monotonic())
            await asyncio.sleep(LOOK_S)
            if await self._adapters.look():
                self._on_change()
            changed = await self._shelf.look()
            if changed or self._is_behind():
                self._follow()
                self._on_change()
            for local in [other for other in self._all() if changed and other.broken_at is not None]:
                local.sleep()  # what it lacked may be there now, such as the same file, whole again

    def _tend(self, now: float) -> None:
        """Wakes the default, lets broken ones try again, ends what is idle and what is gone."""
        for local in self._all():
            idle_s = local.idle_s(now)
            if local.broken_at is not None and now - local.broken_at > RETRY_S:
                local.sleep()
            if local is self.default:
                if not local.is_awake and local.broken_at is None:
                    try:
                        self._wake(local)
                    except NoRoomError as error:
                        if self._arriving is None:  # else the one before it has still something to do
                            self._lack_room(local, str(error))
            elif local is not self._arriving and local.is_awake and 0 < self._config.engine.idle_s < idle_s:
                log.info("model is idle and is unloaded", model=local.model.label)
                local.sleep()
        for local in [gone for gone in self._leaving if gone.is_idle]:
            self._leaving.remove(local)
            self._ended.update(local.answering.num_ended)
            local.sleep()

    def _lack_room(self, local: LocalModel, problem: str) -> None:
        if not local.problem:
            log.error("no room for the default model", why=problem)
            local.tell_broken(problem)
            local.problem = problem
            self._on_change()
        local.problem = problem

    def _is_behind(self) -> bool:
        """Whether a model's file has changed and it still works on the old one."""
        return any(self._models[path].model != file for path, file in self._shelf.files.items())

    def _follow(self) -> None:
        """Brings the models in line with their files, as far as they have nothing to do."""
        for path, file in self._shelf.files.items():
            local = self._models.get(path)
            if local is None:
                local = LocalModel(
                    self._config, self._facts, file, self._adapters, self._num_parallel(file),
                    limits=self._limits, tally=self._tally, kept_adapters=self._kept_adapters,
                    quarantine=self._quarantine, has_room_for_slots=self._has_room_for_slots,
                    on_change=self._on_change, on_alert=self._on_alert, on_crash=self._on_crash,
                )  # fmt: skip
                self._models[path] = local
            elif local.model != file and local.is_idle:
                local.replace(file)
        for path in self._models.keys() - self._shelf.files.keys():
            self._leaving.append(self._models.pop(path))

    def _all(self) -> list[LocalModel]:
        return [*self._models.values(), *self._leaving]

    def _names(self) -> str:
        return ", ".join(local.model.label for local in self.models) or "none"
