"""The errand of fetching: plans, fetches, and plans again when what is held turns out to be damaged."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from agent.errors import DamagedError
from agent.update.assemble import Assembly
from agent.update.errand import Ended, Fetch, Neighbours, Poisoned, Progress, Replanned, Said
from agent.update.errors import UpdateFailed, UpdateTroubled
from agent.update.fetch import Fetcher
from agent.update.held import HeldDamaged, Place, places_of, without_damaged
from agent.update.neighbourhood import Neighbourhood
from agent.update.pace import Closed, Pace, Spent
from agent.update.plan import Plan, Step, offsets_of, plan_for
from agent.update.reach import origins_of
from agent.update.record import Record
from agent.update.sources import Sources
from contract.release import BadRelease

MAX_ROUNDS = 3  # of finding the whole file wrong and getting what is


async def fetch(
    errand: Fetch, record: Record, say: Callable[[Said], None], news: SimpleQueue[Neighbours] | None = None
) -> Ended:
    """Does it. `news` brings who the neighbours are now.

    Raises:
        UpdateFailed, UpdateTroubled: not all can be had (now).
        StoreError: the disk is full or fails.
    """
    work = _Work(errand, record, say)
    looking = asyncio.create_task(work.look(news or SimpleQueue()))
    try:
        for _ in range(MAX_ROUNDS):
            await work.fill()
            if not errand.finish or await asyncio.to_thread(work.is_right):
                return Ended("done", num_bytes=work.num_bytes)
    except Spent as error:
        raise UpdateTroubled(f"cannot go on fetching: {error}", errand.allowance.day_left_ms) from error
    except Closed as error:
        raise UpdateTroubled(f"cannot go on fetching: {error}") from error
    finally:
        looking.cancel()
        work.store([])
    raise UpdateTroubled(f"cannot keep {errand.target}: what is written there is not read again; is the disk failing?")


class _Work:
    """One errand."""

    def __init__(self, errand: Fetch, record: Record, say: Callable[[Said], None]) -> None:
        allowed = errand.allowance
        left = None if allowed.budget_bytes is None else max(0, allowed.budget_bytes - record.spent(allowed.day))
        closes_at_s = None if allowed.open_ms is None else time.monotonic() + allowed.open_ms / 1000
        self._pace = Pace(allowed.rate_bytes_s, left, closes_at_s)
        self._sources = Sources(origins_of(errand.link, self._pace), self._poisoned)
        self._release = errand.release
        self._target = Path(errand.target)
        self._day = allowed.day
        self._record = record
        self._say = say
        self._held: dict[str, Place] = {}
        for held in errand.held:
            self._held |= places_of(held.release, Path(held.path))
        self._numbers = {digest: number for number, digest in enumerate(offsets_of(self._release))}
        self._all_bytes = plan_for(self._release, self._held).fetch_bytes
        self._neighbourhood = None
        if errand.neighbours is not None:
            self._neighbourhood = Neighbourhood(self._release.file.sha256, self._numbers, errand.link, self._poisoned)
            self._neighbourhood.follow(errand.neighbours)
        self._left_bytes = 0
        self._noted_bytes = 0

    def _poisoned(self, url: str, why: str) -> None:
        self._say(Poisoned(url, why))

    async def look(self, news: SimpleQueue[Neighbours]) -> None:
        """Looks at the neighbours until cancelled."""
        if self._neighbourhood is not None:
            await self._neighbourhood.look(news)

    @property
    def num_bytes(self) -> int:
        """That came over the link."""
        return self._pace.came_bytes

    async def fill(self) -> None:
        """Gets what the file lacks."""
        plan = self._plan(await asyncio.to_thread(self._done))
        if plan.fetch_bytes:
            await self._pace.spend(0)
        while True:
            with Assembly(self._release, self._target, self._held) as assembly:
                try:
                    return await Fetcher(plan, assembly, self._sources, self.store, self._neighbourhood).run()
                except HeldDamaged as damaged:
                    self._held = await asyncio.to_thread(without_damaged, self._held, damaged.path)
                    before, plan = self._left_bytes, self._plan(self._record.done(self._release.file.sha256))
                    self._say(Replanned(str(damaged), before, plan.fetch_bytes))

    def is_right(self) -> bool:
        """Whether the whole file is as it should be. If not, what is wrong is not done any more.

        Raises:
            UpdateFailed: it never will be.
        """
        digest = self._release.file.sha256
        with Assembly(self._release, self._target, {}) as assembly:
            try:
                assembly.finish()
            except DamagedError:
                self._record.replace(digest, assembly.intact())
                return False
            except BadRelease as error:
                raise UpdateFailed(str(error)) from error
        self._record.replace(digest, ())  # from now on the file speaks for itself
        return True

    def store(self, steps: list[Step]) -> None:
        """These steps are on the disk, and the bytes for them have come."""
        came = self._pace.came_bytes
        digests = [step.segment.sha256 for step in steps]
        self._record.add(self._release.file.sha256, digests, self._day, came - self._noted_bytes)
        self._noted_bytes = came
        if steps:
            self._left_bytes -= sum(step.source.bytes for step in steps if step.source)
            self._say(Progress(self._progress, [self._numbers[digest] for digest in digests]))

    @property
    def _progress(self) -> float:
        return 1 - min(1.0, self._left_bytes / self._all_bytes) if self._all_bytes else 1.0

    def _plan(self, done: frozenset[str]) -> Plan:
        plan = plan_for(self._release, self._held, done)
        self._left_bytes = plan.fetch_bytes
        if done:
            self._say(Progress(self._progress, sorted(self._numbers[digest] for digest in done)))
        return plan

    def _done(self) -> frozenset[str]:
        """The segments that the file has. It is read when nothing is known of it."""
        digest = self._release.file.sha256
        done = self._record.done(digest)
        if not self._target.is_file() or self._target.stat().st_size != self._release.file.bytes:
            found: frozenset[str] = frozenset()
        elif done:
            return done
        else:
            with Assembly(self._release, self._target, {}) as assembly:
                found = assembly.intact()
        self._record.replace(digest, found)
        return found
