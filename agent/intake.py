"""Where prompts come in: read, checked, told apart from retries, journaled, acknowledged, submitted.

Order of a request: journal row on disk → acknowledgement to the broker → accepted → answer → final and end of the row
in one transaction → outbox → broker. A crash at any point leaves either an unacknowledged message, which the broker
delivers again, or an open row, which `take_up` runs again.

The engine begins while the row is being written, which hides the disk's time behind the first prompt tokens; but
nothing of the answer leaves before the row is on disk.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import UNSET
from msgspec.structs import replace

from agent.answerer import Answerer
from agent.asked import Asked
from agent.dispatch import Chosen
from agent.errors import StoreError
from agent.incoming import Incoming
from agent.job import Job
from agent.logs import describe
from agent.post import Post
from agent.store.journal import Entry, Journal
from agent.store.outbox import Outbox
from contract import mqtt5, topics
from contract.answers import Accepted, Delta, Failure, Final, failure_of
from contract.deadlines import deadline_ms
from contract.errors import Refused
from contract.ids import new_request_id, request_id_of
from contract.limits import MAX_TTL_MS
from contract.requests import Request, decode_cancel, decode_request, is_plain
from contract.status import Status

log = structlog.get_logger()

# Of the daemon with the same request open. Power that comes and goes must not end a request; one that brings the
# daemon down each time must end.
MAX_STARTS = 20


class Live(msgspec.Struct, kw_only=True):
    """A request that has not ended.

    `stored` is set when it is known whether its row is on disk (then it has a `key`), `ended` when its final is.
    """

    digest: bytes
    stored: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    ended: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    asked: Asked
    answering: Answerer | None = None
    job: Job | None = None
    key: int = 0
    early: list[Delta] = []


class Intake:
    """Takes requests and cancels from the link."""

    def __init__(
        self,
        *,
        fleet: str,
        default_ttl_ms: Callable[[], int],
        complete: Callable[[Request], Request],
        on_refused: Callable[[Refused], None],
        admit: Callable[[str], None],
        spend: Callable[[str, int], None],
        choose: Callable[[Request, str | None, float], Chosen],
        journal: Journal,
        outbox: Outbox,
        post: Post,
        publish: Callable[..., Any],
        now_ms: Callable[[], int],
    ) -> None:
        """`complete` gives a request what it leaves open and this node has a setting for. `choose` finds who
        answers a client's request within so many ms, or refuses it; without a client it was admitted before.
        `on_refused` hears of each refusal. `admit` counts a request of a client, or refuses it; `spend` counts the
        tokens of its answer.
        """
        self._fleet = fleet
        self._default_ttl_ms = default_ttl_ms
        self._complete = complete
        self._on_refused = on_refused
        self._admit = admit
        self._spend = spend
        self._choose = choose
        self._journal = journal
        self._outbox = outbox
        self._post = post
        self._publish = publish
        self._now_ms = now_ms
        self._live: dict[tuple[str, str], Live] = {}

    async def request(self, message: Incoming, client: str) -> None:
        """Handles a message on a request topic."""
        plain = is_plain(message.payload)
        correlation = message.properties.correlation
        own_id = request_id_of(correlation) if correlation else new_request_id()
        reply_to = message.properties.response_topic
        if reply_to and not topics.is_below_client(reply_to, self._fleet, client):
            reply_to = None  # refused below; the refusal itself goes to the usual place
        asked = Asked(client=client, id=own_id, plain=plain, reply_to=reply_to, correlation=correlation)
        try:
            request = mqtt5.complete(decode_request(message.payload), message.properties)
            digest = request.digest() + bytes([plain])  # who asked for text must not get JSON for a retry's sake
            request_id = request.id or self._redelivered_id(message, client, digest) or asked.id
            request = msgspec.structs.replace(request, id=request_id)
            asked = msgspec.structs.replace(asked, id=request_id)
            mqtt5.check_reply_to(request, self._fleet, client)
            asked = msgspec.structs.replace(asked, reply_to=request.reply_to)
            if not await self._is_repeated(asked, digest):
                await self._take(message, asked, request, digest)
        except Refused as no:
            if no.request_id:
                asked = msgspec.structs.replace(asked, id=no.request_id)
            await self._refuse(asked, no)
        except Exception as error:  # noqa: BLE001  # one message, whatever it is, must not stop the next
            log.error("cannot handle a request", client=client, **describe(error))
            await self._refuse(asked, Refused(Status.ENGINE_FAILED, "internal", "cannot answer: the node has a fault"))
        message.ack()

    async def cancel(self, message: Incoming, client: str) -> None:
        """Handles a message on a cancel topic. Acknowledged when the request has ended, so that a crash loses none."""
        try:
            live = self._live.get((client, decode_cancel(message.payload).id))
        except Refused as no:
            await self._refuse(Asked(client=client, id=no.request_id or new_request_id(), plain=False), no)
            live = None
        if live is not None and live.job is not None and live.answering is not None:
            live.answering.cancel(live.job)
            await live.ended.wait()
        message.ack()

    async def take_up(self) -> int:
        """Runs the journal's open requests again after a start; returns how many there were."""
        entries = await self._journal.take_up()
        for entry in entries:
            request = msgspec.json.decode(entry.body, type=Request)
            asked = Asked(
                client=entry.client,
                id=entry.id,
                plain=entry.plain,
                reply_to=request.reply_to,
                correlation=entry.correlation,
            )
            live = Live(digest=entry.digest, asked=asked, key=entry.key)
            live.stored.set()
            self._live[entry.client, entry.id] = live
            left_ms = entry.deadline_ms - self._now_ms()
            if left_ms <= 0:
                failure = Failure("deadline", "cannot answer in time: the deadline passed while the node was off")
                await self._finish(live, Final(id=entry.id, status=Status.DEADLINE, error=failure))
            elif entry.starts > MAX_STARTS:
                failure = Failure("engine_failed", "cannot answer: the node stopped each time it ran this request")
                await self._finish(live, Final(id=entry.id, status=Status.ENGINE_FAILED, error=failure))
            else:
                # A clock that was set back must not stretch a deadline beyond what was asked for.
                left_ms = min(left_ms, entry.deadline_ms - entry.arrived_ms)
                try:
                    self._submit(live, request, left_ms, self._choose(request, None, left_ms))
                except Refused as no:  # its model is no longer here
                    await self._finish(live, Final(id=entry.id, status=no.status, error=failure_of(no)))
        return len(entries)

    def _redelivered_id(self, message: Incoming, client: str, digest: bytes) -> str | None:
        """A prompt without an id that the broker delivers again is known by its packet id."""
        if not message.redelivered:
            return None
        return self._journal.find_redelivered(client, digest, message.packet_id)

    async def _is_repeated(self, asked: Asked, digest: bytes) -> bool:
        """Whether the request was taken before, and then what contract rule 1 says about it."""
        live = self._live.get((asked.client, asked.id))
        if live is not None:
            if live.digest != digest:
                raise _conflict(asked.id)
            await live.stored.wait()
            if not live.key:
                raise _no_space("this node cannot write to its disk")
            if live.job is not None and live.answering is not None and not live.job.ended:
                self._send_delta(asked, live.answering.accepted(live.job))
            return True
        row = self._journal.find(asked.client, asked.id)
        if row is None:
            return False
        if row.digest != digest:
            raise _conflict(asked.id)
        if row.final is not None and row.status is not None:
            await self._post.write(asked.letter_again(self._fleet, row.final, row.status))
        return True

    async def _take(self, message: Incoming, asked: Asked, request: Request, digest: bytes) -> None:
        now_ms = self._now_ms()
        until_ms = deadline_ms(now_ms, exp=request.exp, ttl_ms=request.ttl_ms, default_ttl_ms=self._default_ttl_ms())
        if until_ms <= now_ms:
            raise Refused(
                Status.DEADLINE, "exp", f"cannot answer in time: the deadline passed {now_ms - until_ms} ms ago"
            )
        if until_ms - now_ms > MAX_TTL_MS:
            raise Refused(
                Status.INVALID, "exp", f"cannot accept exp = {request.exp}: at most {MAX_TTL_MS} ms ahead are accepted"
            )
        request = self._complete(request)
        chosen = self._choose(request, asked.client, until_ms - now_ms)
        if self._outbox.is_full():
            raise _no_space("the outbox of this node is full")
        self._admit(asked.client)
        live = Live(digest=digest, asked=asked)
        self._live[asked.client, asked.id] = live
        entry = Entry(
            client=asked.client,
            id=asked.id,
            digest=digest,
            plain=asked.plain,
            body=msgspec.json.encode(request),
            correlation=asked.correlation,
            delivery=message.packet_id,
            arrived_ms=now_ms,
            deadline_ms=until_ms,
        )
        job = self._submit(live, request, until_ms - now_ms, chosen)
        answering = chosen.answerer
        try:
            live.key = await self._journal.add(entry)
        except StoreError as error:
            del self._live[asked.client, asked.id]
            answering.cancel(job)
            log.error("cannot journal a request", why=str(error))
            raise _no_space("this node cannot write to its disk") from error
        finally:
            live.stored.set()
        if request.stream:
            self._send_delta(asked, answering.accepted(job))
        for delta in live.early:
            self._send_delta(asked, delta)

    def _submit(self, live: Live, request: Request, left_ms: int, chosen: Chosen) -> Job:
        asked = live.asked
        now = time.monotonic()
        job = live.job = Job(
            client=asked.client,
            id=asked.id,
            request=request,
            arrived=now,
            deadline=now + left_ms / 1000,
            on_delta=lambda delta: self._delta(live, delta),
            on_final=lambda final: self._finish(live, replace(final, why=final.why or chosen.why or UNSET)),
        )
        live.answering = chosen.answerer
        chosen.answerer.submit(job)
        return job

    def _delta(self, live: Live, delta: Delta) -> None:
        if live.stored.is_set():
            self._send_delta(live.asked, delta)
        else:
            live.early.append(delta)

    async def _finish(self, live: Live, final: Final) -> None:
        asked = live.asked
        if final.usage:
            self._spend(asked.client, final.usage.prompt_tokens + final.usage.completion_tokens)
        await live.stored.wait()
        if not live.key:  # its row could not be written: the sender has been told, and nothing is to be kept
            live.ended.set()
            return
        letter = asked.letter(self._fleet, final)
        try:
            keys = await self._journal.end(live.key, final.status, letter.payload, self._now_ms(), [letter])
        except StoreError as error:
            log.error("cannot store an answer; sent without", why=str(error))
            self._publish(letter.topic, letter.payload, qos=1, properties=letter.properties)
        else:
            self._post.send(keys[0], letter)
        del self._live[asked.client, asked.id]
        live.ended.set()

    async def _refuse(self, asked: Asked, no: Refused) -> None:
        log.info(
            "refused", client=asked.client, status=int(no.status), code=no.code.partition(".")[0].partition("[")[0]
        )
        self._on_refused(no)
        final = Final(id=asked.id, status=no.status, error=failure_of(no))
        # A payload that cannot be read may have been meant either way, so both kinds of client hear of it.
        forms = {asked.plain, not asked.plain} if no.code == "payload" else {asked.plain}
        for plain in sorted(forms):
            form = msgspec.structs.replace(asked, plain=plain)
            await self._post.write(form.letter(self._fleet, final))

    def _send_delta(self, asked: Asked, delta: Accepted | Delta) -> None:
        if not asked.plain:
            topic, payload, properties = asked.delta(self._fleet, delta)
            self._publish(topic, payload, qos=0, properties=properties)


def _conflict(request_id: str) -> Refused:
    return Refused(
        Status.CONFLICT,
        "id",
        f"cannot accept id {request_id!r} for another question: use a new id",
        request_id=request_id,
    )


def _no_space(why: str) -> Refused:
    return Refused(Status.NO_SPACE, "disk", f"cannot take the request: {why}", retry_after_ms=60_000)
