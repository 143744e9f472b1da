"""Runs the updates of a node: the daemon's side of `agent.update.workflow`.

One thing at a time: where the updates are is stored, then the one thing that is due is done, then its end is stored.
What becomes more urgent meanwhile, such as going back, cuts off what runs, which begins again afterwards.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from agent.desired import Present, Running, Wish
from agent.errors import AgentError, StoreError
from agent.logs import describe
from agent.store.facts import Facts
from agent.update import slots, workflow
from agent.update.events import events_between
from agent.update.slots import Slots
from agent.update.transitions import EXCHANGING, State
from agent.update.workflow import Failed, Outcome, Update, Work
from contract.steering import Reported

log = structlog.get_logger()

FACT = "updates"
STORE_RETRY_S = 5.0
# On probation the time is stored this often: what crashes the agent is counted by a clock that stands still without it.
PROBATION_LOOK_S = 60.0
PROGRESS_STEPS = 20  # that are stored and reported, of each state

Do = Callable[[str, Work, Callable[[float], None]], Awaitable[Outcome]]


class Updater:
    """Where the releases of this node are on their way."""

    def __init__(
        self,
        facts: Facts,
        *,
        do: Do,
        present: Callable[[], Present],
        running: Callable[[], Running],
        on_change: Callable[[], None],
        on_end: Callable[[], Awaitable[None]],
        on_event: Callable[[str, dict[str, Any]], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`do` does a piece of work and bears being cancelled. `on_change` is called when something else serves or is
        to be reported, `on_end` when an update is over, `on_event` with the name and data of what an operator should
        know.

        Raises:
            StoreError: what an earlier run stored cannot be read.
        """
        self._facts = facts
        self._do_work = do
        self._present = present
        self._running = running
        self._on_change = on_change
        self._on_end = on_end
        self._on_event = on_event
        self._monotonic_s = monotonic_s
        self._now = self._stored = read_slots(facts)
        self._offset_ms = self._now.at_ms - self._system_ms()
        self._news = asyncio.Event()
        self._wish: Wish | None = None

    # What there is.

    @property
    def needed(self) -> set[str]:
        """Releases that serve, would be gone back to, or are on their way."""
        found = {
            release
            for update in self._now.slots.values()
            for release in (update.active, update.last_good, None if update.is_over else update.goal.release)
        }
        return {release for release in found if release is not None}

    @property
    def is_exchanging(self) -> bool:
        """Whether a release is being let serve, or given up."""
        return any(update.state in EXCHANGING for update in self._now.slots.values())

    def in_force(self, wish: Wish) -> Wish:
        """The wish with what serves in place of what is still to come."""
        return slots.in_force(wish, self._now, self._fits)

    def wish_with(self, slot: str, release: str | None) -> Wish:
        """What is in force once a slot has a release."""
        update = self._now.slots[slot]
        changed = msgspec.structs.replace(update, active=release, state=State.CONFIRMED)
        others = Slots(self._now.slots | {slot: changed}, self._now.at_ms)
        return slots.in_force(self._wish or self._serving(), others, self._fits)

    def reported(self, others: Reported) -> Reported:
        """What the node says."""
        return slots.reported(self._now, others, self._at_ms())

    def describe(self) -> dict[str, Any]:
        """What `shoal-agent update status` shows, by slot."""
        at_ms = self._at_ms()
        return {name: _described(update, at_ms) for name, update in self._now.slots.items()}

    # What happens.

    def follow(self, wish: Wish) -> None:
        """There is a wish."""
        self._wish = wish
        self._change(slots.wished(self._now, wish, self._present(), self._running(), self._at_ms()))

    def crashed(self) -> None:
        """What serves has crashed."""
        at_ms = self._at_ms()
        self._change(slots.each(self._now, lambda update: workflow.crashed(update, at_ms)))

    def cancel(self) -> list[str]:
        """Stops what is under way; returns for which slots. What is exchanged is exchanged."""
        at_ms, before = self._at_ms(), self._now
        self._change(slots.each(self._now, lambda update: workflow.cancelled(update, at_ms)))
        return self._changed_since(before)

    def roll_back(self) -> list[str]:
        """Goes back to the last good releases; returns for which slots there is another one."""
        at_ms, before = self._at_ms(), self._now

        def give_up(update: Update) -> Update:
            why = f"{update.active} was rolled back on this node by hand"
            return update if update.active == update.last_good else workflow.given_up(update, why, at_ms)

        self._change(slots.each(self._now, give_up))
        return self._changed_since(before)

    async def start(self) -> None:
        """Takes note of the agent's start, before anything serves: it may have been a release's fault.

        A disk that is full keeps nobody from serving: then it is stored later, before anything is done.
        """
        at_ms = self._at_ms()
        before, self._now = self._now, slots.each(self._now, lambda update: workflow.restarted(update, at_ms))
        try:
            await self._store()
        except StoreError as error:
            log.error("cannot store where updates are", why=str(error))
        for name, data in events_between(before, self._now):
            self._on_event(name, data)

    async def run(self) -> None:
        """Does what is due, until cancelled."""
        await self._tidy()
        while True:
            try:
                await self._advance()
            except Exception as error:  # noqa: BLE001  # whatever it is, this node must go on being updated
                log.error("cannot go on with an update", **describe(error))
                await asyncio.sleep(STORE_RETRY_S)

    async def _advance(self) -> None:
        self._news.clear()
        self._pass_time()
        await self._store()
        work = slots.due(self._now, self._at_ms())
        if work is not None:
            await self._work(*work)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), self._patience_s())

    async def _work(self, slot: str, work: Work) -> None:
        """Does a piece of work, unless another one becomes due first."""
        doing = asyncio.create_task(self._try(slot, work), name=f"update {slot}")
        try:
            while not doing.done():
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({doing, news}, timeout=self._patience_s(), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                self._news.clear()
                self._pass_time()
                if not doing.done():
                    await self._store()
                    if slots.due(self._now, self._at_ms()) != (slot, work):
                        return
        finally:
            doing.cancel()
            await asyncio.wait({doing})
        if slot in self._now.slots:
            update = workflow.ended(self._now.slots[slot], work, doing.result(), self._at_ms(), random.random())
            self._change(self._now.moved(slot, update))
            await self._store()
            if slot not in self._now.slots or update.is_over:
                await self._tidy()

    async def _tidy(self) -> None:
        try:
            await self._on_end()
        except (AgentError, OSError) as error:
            log.error("cannot remove what an update has left", why=str(error))

    async def _try(self, slot: str, work: Work) -> Outcome:
        def on_progress(progress: float) -> None:
            update = self._now.slots.get(slot)
            if update is None:
                return
            moved = workflow.progressed(update, work, progress)
            steps = int(moved.progress * PROGRESS_STEPS) > int(update.progress * PROGRESS_STEPS)
            self._now = self._now.moved(slot, moved)
            if steps:
                self._news.set()
                self._on_change()

        try:
            return await self._do_work(slot, work, on_progress)
        except Exception as error:  # noqa: BLE001  # whatever it is: this update ends, the node goes on
            log.error("cannot do an update's work", state=work.state.value, release=work.release, **describe(error))
            return Failed("cannot go on: the node has a fault; see its log")

    def _changed_since(self, before: Slots) -> list[str]:
        return sorted(name for name, update in before.slots.items() if self._now.slots.get(name) != update)

    def _change(self, now: Slots) -> None:
        """Something has happened; what is to be done about it is done once it is stored."""
        if now != self._now:
            before, self._now = self._now, now
            for name, data in events_between(before, now):
                self._on_event(name, data)
            self._news.set()
            self._on_change()

    def _pass_time(self) -> None:
        at_ms = self._at_ms()
        self._change(slots.each(self._now, lambda update: workflow.passed(update, at_ms)))

    def _patience_s(self) -> float | None:
        times = slots.next_ms(msgspec.structs.replace(self._now, at_ms=self._at_ms()))
        left_s = None if times is None else max(0.0, (times - self._at_ms()) / 1000)
        if any(update.probation_ms is not None for update in self._now.slots.values()):
            left_s = min(PROBATION_LOOK_S, left_s or PROBATION_LOOK_S)
        return left_s

    async def _store(self) -> None:
        """Stores where the updates are, if that is not stored yet."""
        on_probation = any(update.probation_ms is not None for update in self._now.slots.values())
        passed_s = (self._at_ms() - self._stored.at_ms) / 1000
        while self._now.slots != self._stored.slots or (on_probation and passed_s >= PROBATION_LOOK_S):
            now = msgspec.structs.replace(self._now, at_ms=self._at_ms())
            await self._facts.put(FACT, msgspec.json.encode(now).decode())
            self._stored, passed_s = now, 0.0

    def _serving(self) -> Wish:
        running = self._running()
        return Wish(model=running.model, adapters=running.adapters)

    def _fits(self, adapter: str, model: str | None) -> bool:
        present = self._present()
        base = present.models.get(model or present.configured_model or "")
        return base is not None and present.adapters.get(adapter) == base

    def _at_ms(self) -> int:
        return self._system_ms() + self._offset_ms

    def _system_ms(self) -> int:
        return round(self._monotonic_s() * 1000)


def _described(update: Update, at_ms: int) -> dict[str, Any]:
    said = workflow.reported(update, Reported(rev=update.goal.rev, phase="idle"), at_ms)
    return {
        "release": update.goal.release, "state": update.state.value, "progress": round(said.progress, 3),
        "active": update.active, "last_good": update.last_good,
        "probation_ms": None if update.probation_ms is None else max(0, update.probation_ms - at_ms),
        "error": update.error, "gate": update.gate,
    }  # fmt: skip


def read_slots(facts: Facts) -> Slots:
    """What an earlier run stored; that of a version with other states counts for nothing."""
    text = facts.get(FACT)
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(text, type=Slots) if text else Slots()
    return Slots()
