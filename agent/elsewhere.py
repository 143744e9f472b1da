"""A request that is answered by a neighbour or in the cloud. Keeps the promise of this node: it ends exactly once.

When whoever it went to does not take it, or fails before a word came, this node answers itself if it can. A part of an
answer is never continued by another.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable

import structlog
from msgspec import UNSET
from msgspec.structs import replace

from agent.answerer import Answerer
from agent.job import Job
from agent.logs import describe
from agent.privacy import Cleared, Cloud, Peer
from agent.relay import NoWayError, Relay
from contract.answers import Accepted, Delta, Failure, Final, Timings
from contract.errors import Refused
from contract.requests import Reason
from contract.status import Status

log = structlog.get_logger()

# A neighbour that has not accepted within so long is not there: a round trip over the broker takes milliseconds.
ACCEPT_S = 3.0
# That somebody else answers with them says something about the request, and it would be the same here.
FINAL_STATUSES = {Status.OK, Status.INVALID, Status.FORBIDDEN, Status.CONFLICT, Status.UNFIT, Status.CANCELLED}


class Elsewhere:
    """Answers jobs that were decided to go one way."""

    def __init__(
        self,
        node: str,
        relay: Relay,
        clear: Callable[[Job], Cleared],
        why: Reason,
        *,
        local: Answerer | None,
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`clear` lets a job's request out or raises Refused; `local` answers when the other does not, if it can.
        `on_failed` hears that the other did not.
        """
        self._node = node
        self._relay = relay
        self._clear = clear
        self._why = why
        self._local = local
        self._on_failed = on_failed
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._back: set[Job] = set()  # those that `local` has now

    def submit(self, job: Job) -> None:
        """Sends it."""
        task = self._tasks[job] = asyncio.create_task(self._run(job))
        task.add_done_callback(lambda _: self._tasks.pop(job))

    def accepted(self, job: Job) -> Accepted:
        """It waits for nobody here; which model answers is not known yet."""
        if job in self._back and self._local is not None:
            return self._local.accepted(job)
        return Accepted(id=job.id, node=self._node, queue=0, model=job.request.model or "")

    def cancel(self, job: Job) -> None:
        """Stops it, here and there."""
        if job in self._back and self._local is not None:
            self._local.cancel(job)
            return
        job.stop = job.stop or (Status.CANCELLED, "cancelled", "cannot answer: the request was cancelled")
        if job in self._tasks:
            self._tasks[job].cancel()

    async def _run(self, job: Job) -> None:
        try:
            final = await self._ask(job)
        except asyncio.CancelledError:
            if job.stop is None:
                raise  # the daemon ends; the journal has the request
            final = Final(id=job.id, status=job.stop[0], text=job.text or UNSET, error=Failure(*job.stop[1:]))
        except Refused as no:
            final = Final(id=job.id, status=no.status, error=Failure(no.code, no.message, no.retry_after_ms))
        except Exception as error:  # noqa: BLE001  # a client waits for this
            log.error("cannot hand a request on", **describe(error))
            final = Final(
                id=job.id, status=Status.CLOUD_FAILED, error=Failure("internal", "cannot hand it on: a fault")
            )
        if final.status not in FINAL_STATUSES and not job.text:
            self._on_failed()
            if self._local is not None and time.monotonic() < job.deadline:
                self._back.add(job)
                self._local.submit(job)
                return
        await self._end(job, final)

    async def _ask(self, job: Job) -> Final:
        cleared = self._clear(job)
        way, loop = cleared.way, asyncio.get_running_loop()
        ends_s = loop.time() + job.deadline - time.monotonic()
        accept_s = min(ends_s, loop.time() + ACCEPT_S) if isinstance(way, Peer) else ends_s
        asking = self._relay.ask(cleared, ends_s)
        try:
            async with asyncio.timeout_at(accept_s) as patience:
                async for said in asking:
                    patience.reschedule(ends_s)
                    match said:
                        case Delta():
                            self._take(job, said)
                        case Final():
                            return _theirs(job, said, way, self._why)
        except NoWayError:
            code, message = "no_way", "cannot answer: there is no connection to whom it was handed"
            return Final(id=job.id, status=Status.CLOUD_FAILED, error=Failure(code, message))
        except TimeoutError:
            pass
        finally:
            await asyncio.shield(asking.aclose())
        late = time.monotonic() >= job.deadline
        where = f"node {way.node}" if isinstance(way, Peer) else "the cloud"
        status = Status.DEADLINE if late else Status.CLOUD_FAILED
        message = f"cannot answer in time: {where} has not" if late else f"cannot answer: {where} did not take it"
        return Final(id=job.id, status=status, text=job.text or UNSET, error=Failure(status.name.lower(), message))

    def _take(self, job: Job, delta: Delta) -> None:
        job.first_token = job.first_token or time.monotonic()
        # Behind a piece that was lost nothing more goes out: the final has the whole.
        if job.request.stream and delta.seq == job.num_deltas + 1:
            job.text += delta.text
            job.num_deltas += 1
            job.on_delta(replace(delta, id=job.id))

    async def _end(self, job: Job, final: Final) -> None:
        job.ended = True
        now = time.monotonic()
        first_ms = None if job.first_token is None else round((job.first_token - job.arrived) * 1000, 3)
        timings = Timings(queued_ms=0.0, first_token_ms=first_ms, total_ms=round((now - job.arrived) * 1000, 3))
        log.info("answered elsewhere", client=job.client, id=job.id, status=int(final.status),
                 by=final.served_by or None, why=self._why)  # fmt: skip
        await job.on_final(replace(final, node=self._node, why=self._why, timings=timings, last_seq=job.num_deltas))


def handed_id(client: str, request_id: str) -> str:
    """The id of a request where it is handed to: the same for the same one, and no other client's."""
    return f"h-{hashlib.sha256(f'{client}/{request_id}'.encode()).hexdigest()[:40]}"


def _theirs(job: Job, final: Final, way: Peer | Cloud, why: Reason) -> Final:
    """An answer that came back, as this node gives it."""
    by = f"peer:{way.node}" if isinstance(way, Peer) else final.served_by
    text = final.text
    if job.request.stream and isinstance(text, str) and not text.startswith(job.text):
        # Their engine died and answered again in other words; what went out cannot be taken back.
        message = "cannot go on: whoever answered began anew in other words; ask again"
        error = Failure("answered_again", message)
        return Final(id=job.id, status=Status.ENGINE_FAILED, text=job.text, error=error, served_by=by, why=why)
    return replace(final, id=job.id, served_by=by if final.status == Status.OK else UNSET)
