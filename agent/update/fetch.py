"""Gets what a plan asks for over several connections and puts it together.

What always holds:

- What is recorded as done is on the disk. After a kill no more is fetched again than what was on its way.
- Memory holds a few objects, whatever the release, and whatever the sources send.
- Bytes of an object come from several sources at once; when they are wrong, it is fetched again from one alone, so who
  is set aside did it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from agent.update.assemble import Assembly
from agent.update.download import Download
from agent.update.errors import UpdateFailed, UpdateTroubled
from agent.update.local_origin import LocalOrigin
from agent.update.neighbourhood import LOOK_S, Neighbourhood
from agent.update.origin import Connection
from agent.update.plan import Plan, Step
from agent.update.reader import SourceError, Unreachable
from agent.update.sources import Exhausted, Source, Sources
from contract.limits import MAX_SEGMENT_BYTES
from contract.release import Source as Form
from contract.release import object_path
from contract.segments import BadSegment, WrongBytes

# Several connections fill a fast line with long ways. On a slow one a kill would find that all have begun something,
# and none has ended it: there is one until a part has come as quickly as this, and whenever one does not.
NUM_CONNECTIONS: Final = 4
QUICK_S: Final = 2.0
# Of objects that are on their way to the disk, so also the most that a kill can cost. Another begins when there is room
# for it, and one may always: with less than two of the largest, the line is idle while the last parts of one come.
ROOM_BYTES: Final = 2 * MAX_SEGMENT_BYTES
# A broken object is fetched again, a few times: then it is not this one byte that flipped.
MAX_TRIES: Final = 4


class Fetcher:
    """The work on one plan."""

    def __init__(
        self,
        plan: Plan,
        assembly: Assembly,
        sources: Sources,
        store: Callable[[list[Step]], None],
        neighbourhood: Neighbourhood | None = None,
    ) -> None:
        """`sources` are asked over the line. `store` is called in a thread with steps that are on the disk."""
        self._assembly = assembly
        self._sources = sources
        self._store = store
        self._neighbourhood = neighbourhood
        self._copies = deque(step for step in plan.steps if step.source is None)
        self._steps = {step.segment.sha256: step for step in plan.steps if step.source is not None}
        self._downloads: list[Download] = []  # in the order of the plan
        self._tries: dict[str, int] = {}
        self._put: list[Step] = []  # in the file, perhaps not on the disk
        self._storing: list[Step] = []  # those of them that are being brought there
        self._changed = asyncio.Event()
        self._num_running = 0
        self._width = 1  # how many may be
        self._is_over = False

    async def run(self) -> None:
        """Returns when all is on the disk.

        Raises:
            UpdateFailed, UpdateTroubled: not all can be had (now).
            Closed: the link may not be used any more.
            HeldDamaged: something held is not what it was; plan again.
            StoreError: the disk is full or fails.
        """
        keeper = asyncio.create_task(self._keep())
        workers = [asyncio.create_task(self._work()) for _ in range(NUM_CONNECTIONS)]
        try:
            pending = {keeper, *workers}
            while pending != {keeper}:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task  # raises what went wrong, with the disk too
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self._is_over = True
            self._changed.set()
            await keeper  # what came is kept, however this ends

    async def _work(self) -> None:
        """Gets parts, over connections of its own."""
        connections: dict[Source, Connection | LocalOrigin] = {}
        try:
            while (download := await self._next()) is not None:
                await self._get_part(download, connections)
                if download.is_whole and download in self._downloads:
                    self._downloads.remove(download)
                    if download.is_lost:
                        self._steps[download.step.segment.sha256] = download.step
                    else:
                        self._finish(download)
                    download.content.clear()  # workers that wait for another one still know this one
                self._changed.set()
        finally:
            for connection in connections.values():
                connection.close()

    async def _next(self) -> Download | None:
        """A download of which parts are to be asked for; None when there will be none any more."""
        while True:
            ready = next((download for download in self._downloads if download.parts), None)
            if ready is not None and self._num_running < self._width:
                return ready
            if ready is None and self._begin():
                await asyncio.sleep(0)  # what is copied from held files must not keep the others waiting
            elif self._steps or self._downloads:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):  # neighbours may have more by then
                    await asyncio.wait_for(self._changed.wait(), LOOK_S if self._neighbourhood else None)
            else:
                return None

    def _begin(self) -> bool:
        """Begins with the next step, if that can be now."""
        if self._copies:
            step = self._copies.popleft()
            self._assembly.put(step)
            self._note(step)
            return True
        picked = self._pick()
        if picked is None:
            return False
        step, sources, form = picked
        taken = sum(download.form.bytes for download in self._downloads)
        taken += sum(put.source.bytes for put in self._put + self._storing if put.source)
        if taken and taken + form.bytes > ROOM_BYTES:
            return False
        del self._steps[step.segment.sha256]
        self._downloads.append(Download(step, form, sources))
        return True

    def _pick(self) -> tuple[Step, Sources, Form] | None:
        """What to fetch next, whom to ask, and for which form. Neighbours have files, so of them it is the raw one."""
        if self._neighbourhood is None:
            step, peer = next(iter(self._steps.values()), None), None
        else:
            step, peer = self._neighbourhood.pick(self._steps.values(), time.monotonic()) or (None, None)
        if step is None or step.source is None:
            return None
        if peer is None:
            return step, self._sources, step.source
        return step, peer, Form("full", step.segment.sha256, step.segment.bytes)

    async def _get_part(self, download: Download, connections: dict[Source, Connection | LocalOrigin]) -> None:
        at, end = download.parts.popleft()
        download.num_running += 1
        self._num_running += 1
        try:
            source = await self._choose(download)
        except BaseException:
            self._end(download)
            raise
        if source is None:
            self._end(download)
            self._lose(download)
            return
        asked_s = time.monotonic()
        source.num_running += 1
        start = at

        def take(data: bytes) -> None:
            nonlocal at
            download.content[at : at + len(data)] = data
            at += len(data)
            download.senders.add(source)

        try:
            connection = await _connection(source, connections)
            await connection.part(object_path(download.form.sha256), start, end, download.form.bytes, take)
        except SourceError as error:
            download.sources.went_wrong(source, download.form.sha256, error, asked_s, time.monotonic())
            kept = at if isinstance(error, Unreachable) and not download.alone else start
            download.parts.appendleft((kept, end))
            if download.alone:
                download.senders.clear()
            self._lose(download)
        else:
            took_s = time.monotonic() - asked_s
            self._width = NUM_CONNECTIONS if took_s < QUICK_S else 1
            download.sources.went_well(source, end - start, took_s)
        finally:
            source.num_running -= 1
            self._end(download)

    def _end(self, download: Download) -> None:
        download.num_running -= 1
        self._num_running -= 1

    def _lose(self, download: Download) -> None:
        """A neighbour is not waited for: others may have it, or there is the line."""
        if self._neighbourhood is not None and download.sources is not self._sources:
            download.parts.clear()
            download.is_lost = True
            self._neighbourhood.lost(download.sources)

    async def _choose(self, download: Download) -> Source | None:
        """Whom to ask now; None: the neighbour that was to be asked is none any more."""
        while True:
            try:
                choice = download.sources.choose(download.form.sha256, time.monotonic())
            except Exhausted as error:
                if download.sources is not self._sources:
                    return None
                name = f"{download.step.segment.name} ({download.form.sha256[:12]})"
                if error.is_final:
                    raise UpdateFailed(f"cannot get the object of {name}: {error}") from error
                raise UpdateTroubled(
                    f"cannot get the object of {name}: {error}", round(error.after_s * 1000)
                ) from error
            if isinstance(choice, Source):
                return choice
            await asyncio.sleep(choice)

    def _finish(self, download: Download) -> None:
        try:
            self._assembly.put(replace(download.step, source=download.form), download.content)
        except WrongBytes as error:
            self._blame(download, error)
        except BadSegment as error:
            raise UpdateFailed(str(error)) from error
        else:
            self._note(download.step)

    def _blame(self, download: Download, error: WrongBytes) -> None:
        if download.sources is not self._sources:
            download.sources.set_aside(download.sources.all[0], str(error))
            self._steps[download.step.segment.sha256] = download.step
            return
        if len(download.senders) == 1:
            self._sources.was_wrong(next(iter(download.senders)), str(error))
        tries = self._tries[download.form.sha256] = self._tries.get(download.form.sha256, 1) + 1
        if tries > MAX_TRIES:
            raise UpdateTroubled(f"{error}; it came {MAX_TRIES} times")
        self._downloads.append(Download(download.step, download.form, self._sources, alone=len(self._sources.all) > 1))

    def _note(self, step: Step) -> None:
        self._put.append(step)
        self._changed.set()

    async def _keep(self) -> None:
        """Has what was put on the disk, again and again: as often as the disk can."""
        while not self._is_over or self._put:
            if not self._put:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._storing, self._put = self._put, []
            await asyncio.to_thread(self._to_disk, self._storing)
            self._storing = []
            self._changed.set()

    def _to_disk(self, steps: list[Step]) -> None:
        self._assembly.sync()
        self._store(steps)


async def _connection(source: Source, connections: dict[Source, Connection | LocalOrigin]) -> Connection | LocalOrigin:
    """One that can be used. Each worker has its own."""
    known = connections.pop(source, None)
    if known is not None and not known.is_open:
        with contextlib.suppress(OSError):
            known.close()
        known = None
    connections[source] = known or await source.origin.open()
    return connections[source]
