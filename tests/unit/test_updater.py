"""The updater on a real database: stored before it acts, one thing at a time, and going on wherever it was stopped."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.desired import Present, Running, Wish
from agent.store.database import Database
from agent.store.facts import Facts
from agent.update.slots import MODEL
from agent.update.transitions import State
from agent.update.updater import Updater, read_slots
from agent.update.workflow import PROBATION_MS, Done, Outcome, Refused, Troubled, Work
from contract.steering import Reported

CALM = Reported(rev=1, phase="confirmed")
RUNNING = Running(model="m@1", adapters=[], settings={})


class Node:
    """A node whose work is played, and its clock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.now_s = 0.0
        self.play: Callable[[Work], Awaitable[Outcome]] = self.well
        self.done: list[tuple[str, State, str | None]] = []
        self.events: list[str] = []
        self.moved = asyncio.Event()

    async def well(self, _: Work) -> Outcome:
        """All goes well."""
        return Done()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Updater]:
        """The updater of one run of the agent, which ends without a word."""
        database = Database(self._folder)
        facts = Facts(database)

        async def do(slot: str, work: Work, _: Callable[[float], None]) -> Outcome:
            stored = read_slots(facts).slots[slot]
            assert (stored.state, stored.work) == (work.state, work.number)  # before it is acted on
            self.done.append((slot, work.state, work.release))
            return await self.play(work)

        async def nothing() -> None:
            pass

        def note(name: str, _: dict[str, Any]) -> None:
            self.events.append(name)

        updater = Updater(
            facts, do=do, present=lambda: Present(models={"m@1": "aa"}, adapters={}, configured_model="m@1",
            configured_settings={}), running=lambda: RUNNING, on_change=self.moved.set, on_end=nothing, on_event=note,
            monotonic_s=lambda: self.now_s,
        )  # fmt: skip
        await updater.start()
        task = asyncio.create_task(updater.run())
        try:
            yield updater
        finally:
            task.cancel()
            await asyncio.wait([task])
            database.close()

    async def until(self, updater: Updater, state: State) -> None:
        """Waits for the model's update."""
        while updater.describe()[MODEL]["state"] != state.value:
            self.moved.clear()
            await self.moved.wait()


def run(test: Callable[[Node], Awaitable[None]], folder: Path) -> Node:
    """Runs a test on a node."""

    async def go() -> Node:
        node = Node(folder)
        await test(node)
        return node

    return asyncio.run(go())


def test_a_release_goes_its_way_and_serves(tmp_path: Path) -> None:
    """Each state is done once, in order; what is in force changes at the end, and an operator hears of it."""

    async def test(node: Node) -> None:
        wish = Wish(rev=1, model="m@2")
        async with node.running() as updater:
            updater.follow(wish)
            assert updater.in_force(wish).model == "m@1"
            await node.until(updater, State.CONFIRMED)
            assert updater.in_force(wish).model == "m@2"
            assert updater.needed == {"m@1", "m@2"}

    node = run(test, tmp_path)
    assert [state.value for _, state, _ in node.done] == [
        "checking", "admitting", "fetching", "assembling", "gating", "switching",
    ]  # fmt: skip
    assert node.events == ["update_started", "update_confirmed"]


def test_an_agent_that_dies_of_a_release_goes_back_to_the_one_before(tmp_path: Path) -> None:
    """Three starts within the hour; the last of them begins with what was good, and never runs the bad one again."""

    async def test(node: Node) -> None:
        wish = Wish(rev=1, model="m@2")
        async with node.running() as updater:
            updater.follow(wish)
            await node.until(updater, State.CONFIRMED)
        for _ in range(2):
            async with node.running() as updater:
                assert updater.in_force(wish).model == "m@2"
        async with node.running() as updater:
            assert updater.in_force(wish).model == "m@1"
            await node.until(updater, State.ROLLED_BACK)
            updater.follow(Wish(rev=2, model="m@2"))  # renewed
            assert updater.describe()[MODEL]["state"] == "rolled_back"
            assert updater.reported(CALM).error == "cannot keep m@2: it crashed 3 times in 10 minutes"

    assert run(test, tmp_path).events[-1] == "update_rolled_back"


def test_what_has_proved_itself_stays(tmp_path: Path) -> None:
    """An hour of running, whatever the device's clock says; starts afterwards change nothing."""

    async def test(node: Node) -> None:
        async with node.running() as updater:
            updater.follow(Wish(rev=1, model="m@2"))
            await node.until(updater, State.CONFIRMED)
            node.now_s += PROBATION_MS / 1000
            updater.crashed()
            updater.cancel()
            await _until(node, lambda: updater.describe()[MODEL]["last_good"] == "m@2")
        for _ in range(4):
            async with node.running() as updater:
                assert updater.describe()[MODEL]["state"] == "confirmed"
            node.now_s = 0.0  # the machine has started anew

    run(test, tmp_path)


def test_a_restart_goes_on_in_the_state_in_which_it_was(tmp_path: Path) -> None:
    """What was cut off is done again, what was done is not."""

    async def test(node: Node) -> None:
        hangs = asyncio.Event()

        async def hang(work: Work) -> Outcome:
            if work.state is State.FETCHING:
                hangs.set()
                await asyncio.sleep(1e9)
            return Done()

        node.play = hang
        async with node.running() as updater:
            updater.follow(Wish(rev=1, model="m@2"))
            await hangs.wait()
        node.done.clear()
        node.play = node.well
        async with node.running() as updater:
            await node.until(updater, State.CONFIRMED)

    node = run(test, tmp_path)
    assert [state.value for _, state, _ in node.done] == ["fetching", "assembling", "gating", "switching"]


def test_going_back_cuts_off_what_runs(tmp_path: Path) -> None:
    """An adapter that is being fetched waits until the model that crashes is gone, and is then fetched."""

    async def test(node: Node) -> None:
        fetching = asyncio.Event()
        cut_off: list[str | None] = []

        async def hang(work: Work) -> Outcome:
            if work.state is State.FETCHING and work.release == "tone@1" and not cut_off:
                fetching.set()
                try:
                    await asyncio.sleep(1e9)
                finally:
                    cut_off.append(work.release)
            return Done()

        async with node.running() as updater:
            updater.follow(Wish(rev=1, model="m@2"))
            await node.until(updater, State.CONFIRMED)
            node.play = hang
            updater.follow(Wish(rev=2, model="m@2", adapters=["tone@1"]))
            await fetching.wait()
            assert updater.roll_back() == [MODEL]
            await node.until(updater, State.ROLLED_BACK)
            assert cut_off == ["tone@1"]
            await _until(node, lambda: updater.describe()["adapter:tone"]["state"] == "confirmed")

    node = run(test, tmp_path)
    assert node.done.count(("adapter:tone", State.FETCHING, "tone@1")) == 2


@pytest.mark.parametrize("outcome", [Refused("no room"), Troubled("no route")])
def test_cancelling_and_refusing_leave_what_serves(tmp_path: Path, outcome: Outcome) -> None:
    """What is refused is over; what waits to try again can be cancelled."""

    async def test(node: Node) -> None:
        async def play(_: Work) -> Outcome:
            return outcome

        node.play = play
        async with node.running() as updater:
            updater.follow(Wish(rev=1, model="m@2"))
            if isinstance(outcome, Refused):
                await node.until(updater, State.REFUSED)
                assert updater.cancel() == []
            else:
                await _until(node, lambda: updater.describe()[MODEL]["error"] == "no route")
                assert updater.cancel() == [MODEL]
                assert updater.describe()[MODEL]["state"] == "idle"
            assert updater.roll_back() == []
            assert updater.in_force(Wish(rev=1, model="m@2")).model == "m@1"

    run(test, tmp_path)


async def _until(node: Node, wanted: Callable[[], bool]) -> None:
    while not wanted():
        node.moved.clear()
        await node.moved.wait()
