"""The daemon's side of the engine: starts the child, watches it, replaces it.

    STARTING ──Ready──► READY ──exit, hang──► STARTING (at once; after several crashes in a minute with growing pauses)
    STARTING ──crash──► STARTING on the next rung of the ladder; behind the last one BROKEN
    STARTING ──Broken──► BROKEN, which is the end: whether and when to try again is the caller's business

That the child died, and how, is reported through `on_lost`; whether to run again what ran is the caller's business.
"""

import asyncio
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

import msgspec
import structlog

from agent.engine import frames, ladder
from agent.engine.death import CRASH_CODES, Death, death_of
from agent.engine.process import Process, start
from agent.errors import EngineError

log = structlog.get_logger()

PING_S = 5.0
CRASH_WINDOW_S = 60.0
FREE_CRASHES = 3  # in a window; further ones wait, so that a broken machine is not kept busy with loading
MAX_PAUSE_S = 60.0
LATE_S = 60.0  # far more than a busy device needs to come round
MAX_FAILED_STARTS = 3  # deaths of other causes (killed, no memory) before the flags are blamed all the same


class State(Enum):
    """Where the engine stands."""

    STARTING = "starting"
    READY = "ready"
    BROKEN = "broken"
    STOPPED = "stopped"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how patient to be."""

    file: str
    sha256: str = ""
    context_tokens: int
    parallel: int
    threads: int
    prefix_cache_bytes: int = 0
    cache_dir: str = ""
    start_timeout_s: float
    stall_s: float
    address_space_bytes: int = 0
    chat_template: str | None = None
    unit_socket: str = ""  # of the unit that starts engines; empty: they are children of this process


class ModelBroken(EngineError):
    """The engine says that this model can never load."""


class Supervisor:
    """Keeps one engine process running, until it is broken.

    Callbacks run in the event loop: `on_frame` for every frame about a job, `on_state` after each change of state,
    `on_lost` when a process that had been ready died, `on_rung` when a rung of the ladder has proved itself.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        first_rung: int,
        on_frame: Callable[[frames.OfJob], None],
        on_state: Callable[[State], None],
        on_lost: Callable[[Death], None],
        on_rung: Callable[[ladder.Rung], None],
    ) -> None:
        self._plan = plan
        self._rung = first_rung
        self._on_frame = on_frame
        self._on_state = on_state
        self._on_lost = on_lost
        self._on_rung = on_rung
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._files: socket.socket | None = None
        self._num_failed_starts = 0
        self._crashes: deque[float] = deque(maxlen=16)
        self._death = Death.ENDED  # of the process before
        self._due = math.inf  # when the loop that listens to the process must have come round again
        self._changed = asyncio.Event()
        self.state = State.STOPPED
        self.ready: frames.Ready | None = None
        self.slots: frames.Slots | None = None
        self.slots_pending = False  # asked for, and neither there nor refused; still set when the engine died of it
        self.problem = ""
        self.num_restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the engine, when there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def is_alive(self) -> bool:
        """Whether the engine is listened to. One that hangs is replaced; should that hang too, only a restart helps."""
        return time.monotonic() < self._due

    @property
    def rung(self) -> ladder.Rung:
        """The load flags in use."""
        return ladder.RUNGS[self._rung]

    def start(self) -> None:
        """Begins to keep an engine running."""
        self._task = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Ends the engine. What it was doing is dropped without `on_lost`."""
        self._set(State.STOPPED)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kill(self) -> None:
        """Ends the process, which is then replaced as after a crash."""
        if self._process is not None:
            self._process.kill()

    async def wait_broken(self) -> None:
        """Returns when the engine is broken."""
        while self.state is not State.BROKEN:
            await self._changed.wait()

    async def wait_ready(self) -> frames.Ready:
        """Waits for the engine to be ready.

        Raises:
            EngineError: it is broken.
        """
        while self.state is not State.READY or self.ready is None:
            if self.state is State.BROKEN:
                raise EngineError(self.problem)
            await self._changed.wait()
        return self.ready

    def send(self, frame: frames.ToEngine) -> None:
        """Sends a frame; one to an engine that just died is dropped, `on_lost` follows."""
        if isinstance(frame, frames.MakeSlots):
            self.slots_pending = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.encode(frame))

    def send_adapter(self, sha256: str, fd: int) -> None:
        """Gives the engine an adapter's file; the caller closes its own descriptor.

        Raises:
            OSError: the engine does not take it.
        """
        if self._files is not None:
            socket.send_fds(self._files, [b"A"], [fd], socket.MSG_DONTWAIT)
            self.send(frames.Adapter(sha256))

    async def _run(self) -> None:
        while True:
            self._set(State.STARTING)
            try:
                was_ready = await self._serve_one()
            except ModelBroken as broken:
                self._be_broken(str(broken))
                return
            except OSError as error:
                place = self._plan.unit_socket or "this process"
                self._be_broken(f"cannot start an engine from {place}: {error}; is shoal-engine.socket running?")
                return
            self.num_restarts += 1
            if was_ready:
                self._num_failed_starts = 0
                self._set(State.STARTING)  # first: what is run again must wait for the next process
                self._on_lost(self._death)
                await asyncio.sleep(self._pause_s())
            elif not await self._step_down():
                return

    async def _step_down(self) -> bool:
        """After a death while starting: the next rung when the flags are to blame, else the same one again.

        False when there is no rung left.
        """
        self._num_failed_starts += 1
        code = self._process.returncode if self._process else None
        if code not in CRASH_CODES and self._num_failed_starts < MAX_FAILED_STARTS:
            await asyncio.sleep(self._pause_s())
            return True
        self._num_failed_starts = 0
        if self._rung + 1 < len(ladder.RUNGS):
            self._rung += 1
            log.warning("engine died while starting; trying safer flags", code=code, rung=self.rung.name)
            return True
        self._be_broken("cannot start the engine: it dies with all load flags; see the log for its last words")
        return False

    def _be_broken(self, problem: str) -> None:
        self.problem = problem
        log.error("engine cannot run", rung=self.rung.name, why=problem)
        self._set(State.BROKEN)

    def _pause_s(self) -> float:
        now = time.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash < CRASH_WINDOW_S for crash in self._crashes)
        return 0.0 if recent <= FREE_CRASHES else float(min(MAX_PAUSE_S, 2.0 ** (recent - FREE_CRASHES - 1)))

    async def _serve_one(self) -> bool:
        """Runs one process until it ends; returns whether it had become ready."""
        here, there = socket.socketpair()
        self._files, their_files = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        became_ready = False
        replaced: Death | None = None
        try:
            with there, their_files:
                self._process = await start([there, their_files], self._plan.unit_socket)
            reader, self._writer = await asyncio.open_unix_connection(sock=here)
            self.send(
                frames.Load(
                    file=self._plan.file,
                    sha256=self._plan.sha256,
                    context_tokens=self._plan.context_tokens,
                    parallel=self._plan.parallel,
                    threads=self._plan.threads,
                    flags=self.rung.flags,
                    prefix_cache_bytes=self._plan.prefix_cache_bytes,
                    cache_dir=self._plan.cache_dir,
                    address_space_bytes=self._plan.address_space_bytes,
                    chat_template=self._plan.chat_template,
                )
            )
            try:
                replaced = await self._listen(reader)
                became_ready = self.ready is not None
            finally:
                self.ready = self.slots = None
                self._process.kill()
                last_words = await self._process.wait()
                self._due = math.inf
                self._death = replaced or death_of(self._process.returncode)
                if self.state is not State.STOPPED:
                    log.error(
                        "engine ended", code=self._process.returncode, death=self._death.value, said=last_words,
                        was_ready=became_ready,
                    )  # fmt: skip
        finally:
            here.close()
            self._files.close()
            self._files = None
            self._writer = None
        return became_ready

    async def _listen(self, reader: asyncio.StreamReader) -> Death | None:
        """Takes frames until the process ends, or must end for what is returned."""
        decoder = frames.Decoder(frames.FromEngine)
        deadline = time.monotonic() + self._plan.start_timeout_s
        pinged: float | None = None  # when the first ping went that nothing has answered
        while True:
            limit_s = min(PING_S, self._plan.stall_s / 2) if self.ready else deadline - time.monotonic()
            self._due = time.monotonic() + limit_s + LATE_S
            try:
                data = await asyncio.wait_for(reader.read(1 << 16), limit_s)
            except TimeoutError:
                now = time.monotonic()
                if self.ready is None or (pinged is not None and now - pinged > self._plan.stall_s):
                    log.error("engine does not answer and is replaced", ready=self.ready is not None)
                    return Death.STALL
                pinged = now if pinged is None else pinged
                self.send(frames.Ping())
                continue
            except ConnectionError:
                data = b""
            if not data:
                return None
            pinged = None
            try:
                for frame in decoder.feed(data):
                    if not self._take(frame):
                        return Death.STALL
            except (ValueError, msgspec.MsgspecError):
                log.error("engine breaks the protocol and is replaced")
                return Death.NONSENSE

    def _take(self, frame: frames.FromEngine) -> bool:
        """Handles one frame; False when the engine must be replaced."""
        match frame:
            case frames.Ready():
                self.ready = frame
                self._set(State.READY)
                self._on_rung(self.rung)
            case frames.Broken(message):
                raise ModelBroken(f"cannot load the model {self._plan.file}: {message}; give a GGUF text model")
            case frames.Slots():
                self.slots, self.slots_pending = frame, False
                log.info("adapter slots", slots=frame.num_slots, problem=frame.problem or None)
            case frames.Pong(step_ms=step_ms) if step_ms > self._plan.stall_s * 1000:
                log.error("engine hangs in a step and is replaced", step_s=round(step_ms / 1000))
                return False
            case frames.Pong():
                pass
            case _:
                self._on_frame(frame)
        return True

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._changed.set()
            self._changed = asyncio.Event()
            self._on_state(state)
