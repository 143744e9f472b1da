"""Adapters on their way from the store into an engine: before their jobs, once, and within a budget."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from agent.engine import frames
from agent.errors import StoreError
from agent.supply import MAX_GIVEN, Supply


def generate(job: int, adapter: str | None) -> frames.Generate:
    """A job."""
    return frames.Generate(
        job=job, turns=[("user", "x")], sampling=frames.Sampling(temperature=0, top_p=1, top_k=1), max_tokens=1,
        deadline_ms=1000, adapter=adapter,
    )  # fmt: skip


class Scene:
    """A supply, an engine that writes down what it gets, and a store whose reads a test can hold up."""

    def __init__(self, budget_bytes: int = 1000) -> None:
        self.got: list[str] = []
        self.in_use: set[str] = set()
        self.waiting: dict[str, int] = {}
        self.rejected: list[frames.Rejected] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads: list[str] = []
        self.now = 0
        self.supply = Supply(
            open_adapter=self._open,
            budget_bytes=budget_bytes,
            in_use=lambda: self.in_use,
            waiting=lambda: self.waiting,
            on_rejected=self.rejected.append,
            on_given=lambda: self.got.append("given"),
            now_ms=self._now,
        )

    def send(self, frame: frames.ToEngine) -> None:
        """The engine's end."""
        match frame:
            case frames.Generate(job=job):
                self.got.append(f"job {job}")
            case frames.Cancel(job=job):
                self.got.append(f"cancel {job}")
            case frames.Forget(sha256=sha256):
                self.got.append(f"forget {sha256}")

    def send_adapter(self, sha256: str, fd: int) -> None:
        """The engine's end."""
        assert os.fstat(fd).st_size
        self.got.append(f"adapter {sha256}")

    def ask(self, job: int, adapter: str | None) -> None:
        """Sends a job."""
        self.supply.send(self, generate(job, adapter))

    async def settle(self) -> None:
        """Waits for all that can be read."""
        while self.supply._tasks and self.gate.is_set():
            await asyncio.wait(self.supply._tasks)
            await asyncio.sleep(0)

    async def _open(self, sha256: str) -> int:
        self.reads.append(sha256)
        await self.gate.wait()
        if sha256 == "gone":
            raise StoreError("cannot read the adapter gone: it was removed")
        fd = os.memfd_create(sha256)
        os.truncate(fd, 400)
        return fd

    def _now(self) -> int:
        self.now += 1
        return self.now


def play(act: Callable[[Scene], Awaitable[None]]) -> None:
    """Runs a scene; no descriptor is left behind."""

    async def run() -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names only
        scene = Scene()
        await act(scene)
        scene.gate.set()
        await scene.settle()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    asyncio.run(run())


def test_an_adapter_comes_before_its_jobs_and_once() -> None:
    """Two jobs that wait for the same one follow it in order; a third finds it there."""

    async def act(scene: Scene) -> None:
        scene.ask(1, "a")
        scene.ask(2, "a")
        assert scene.got == []
        await scene.settle()
        scene.ask(3, "a")
        assert scene.got == ["adapter a", "given", "job 1", "job 2", "job 3"]
        assert scene.reads == ["a"]
        assert scene.supply.resident == {"a": 400}

    play(act)


def test_others_go_on_while_an_adapter_is_read() -> None:
    """Only what needs it is held back, and a cancel stays behind its job."""

    async def act(scene: Scene) -> None:
        scene.gate.clear()
        scene.ask(1, "a")
        scene.ask(2, None)
        scene.supply.send(scene, frames.Cancel(1, "cancelled"))
        scene.supply.send(scene, frames.Cancel(2, "cancelled"))
        await asyncio.sleep(0)
        assert scene.got == ["job 2", "cancel 2"]
        scene.gate.set()
        await scene.settle()
        assert scene.got[2:] == ["adapter a", "given", "job 1", "cancel 1"]

    play(act)


def test_one_that_cannot_be_had_is_told_to_its_jobs() -> None:
    """404 with the reason; the next job tries again."""

    async def act(scene: Scene) -> None:
        scene.ask(1, "gone")
        scene.supply.send(scene, frames.Cancel(1, "cancelled"))
        await scene.settle()
        (rejected,) = scene.rejected
        assert (rejected.job, rejected.status, rejected.code) == (1, 404, "adapter")
        assert "it was removed" in rejected.message
        assert (scene.got, scene.supply.resident) == ([], {})
        scene.ask(2, "gone")
        await scene.settle()
        assert scene.reads == ["gone", "gone"]

    play(act)


def test_another_engine_has_nothing_and_gets_nothing_of_before() -> None:
    """What was on its way to an engine that died does not reach the next one."""

    async def act(scene: Scene) -> None:
        scene.ask(1, "a")
        await scene.settle()
        scene.gate.clear()
        scene.ask(2, "b")
        await asyncio.sleep(0)
        scene.supply.clear()
        assert scene.supply.resident == {}
        scene.ask(3, "b")
        scene.gate.set()
        await scene.settle()
        assert scene.got == ["adapter a", "given", "job 1", "adapter b", "given", "job 3"]

    play(act)


def test_the_budget_holds_and_what_runs_stays() -> None:
    """Before a new one comes, what is worth least goes, unless running jobs need it."""

    async def act(scene: Scene) -> None:
        for job, adapter in enumerate(["a", "a", "b", "a"]):
            scene.ask(job, adapter)
            await scene.settle()
        scene.ask(5, "c")
        await scene.settle()
        assert scene.got[-4:] == ["forget b", "adapter c", "given", "job 5"]
        scene.in_use = {"a", "c"}
        scene.waiting = {"a": 0}
        scene.ask(6, "d")
        await scene.settle()
        assert scene.supply.resident.keys() == {"a", "c", "d"}  # more than the budget, for what runs
        scene.in_use = {"d"}
        scene.ask(7, "e")
        await scene.settle()
        assert scene.supply.resident.keys() == {"d", "e"}
        assert sum(scene.supply.resident.values()) <= 1000

    play(act)


def test_what_a_waiting_request_wants_is_worth_more_than_what_was_used_often() -> None:
    """Its use is certain."""

    async def act(scene: Scene) -> None:
        for job, adapter in enumerate(["a", "a", "a", "b"]):
            scene.ask(job, adapter)
            await scene.settle()
        scene.waiting = {"b": 0}
        scene.ask(5, "c")
        await scene.settle()
        assert scene.supply.resident.keys() == {"b", "c"}

    play(act)


def test_an_engine_has_only_so_many() -> None:
    """Each is a descriptor in the engine, however small it is."""

    async def act(scene: Scene) -> None:
        scene.supply._budget_bytes = 1 << 40
        for number in range(MAX_GIVEN + 3):
            scene.ask(number, f"a{number}")
            await scene.settle()
        assert len(scene.supply.resident) == MAX_GIVEN
        assert [line for line in scene.got if line.startswith("forget")] == ["forget a0", "forget a1", "forget a2"]

    play(act)
