"""Brings the outbox to the broker: at once while connected, and what is left after each new connection."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog

from agent.errors import StoreError
from agent.store.outbox import Letter, Outbox, Priority
from contract.mqtt5 import Properties

log = structlog.get_logger()

WINDOW = 32  # letters on their way at once
TIDY_S = 0.5  # delivered letters are deleted in groups
EVENT_JITTER_S = 30.0  # after a reconnect: a fleet that comes back together must not speak all at once

Publish = Callable[[str, bytes, Properties], "asyncio.Future[None] | None"]


class Post:
    """Sends letters in order of priority and age, and forgets one when the broker has it."""

    def __init__(self, outbox: Outbox, publish: Publish) -> None:
        self._outbox = outbox
        self._publish = publish
        self._on_way: dict[int, asyncio.Future[None]] = {}
        self._behind = False  # the outbox may hold letters that are not on their way
        self._events_from = 0.0
        self._tidying: asyncio.Task[None] | None = None

    def connected(self) -> None:
        """A connection was made: everything in the outbox goes (again), events after a random pause."""
        loop = asyncio.get_running_loop()
        pause_s = random.uniform(0, EVENT_JITTER_S)  # jitter is no secret
        self._events_from = loop.time() + pause_s
        loop.call_later(pause_s, self._catch_up)
        self._catch_up()

    def send(self, key: int, letter: Letter) -> None:
        """Sends a letter that was just stored under `key`."""
        if key in self._on_way:  # a connection was made since it was stored
            return
        if len(self._on_way) >= WINDOW or not self._start(key, letter):
            self._behind = True

    async def write(self, letter: Letter) -> None:
        """Stores and sends a letter. One that cannot be stored is sent all the same: better unsure than not at all."""
        try:
            key = await self._outbox.add(letter)
        except StoreError as error:
            log.error("cannot keep a message; sent without", why=str(error))
            self._publish(letter.topic, letter.payload, letter.properties)
        else:
            self.send(key, letter)

    async def flush(self, timeout_s: float) -> None:
        """Waits until nothing is on its way, and forgets what the broker has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._on_way:
                    await asyncio.wait(list(self._on_way.values()))
        if self._tidying:
            self._tidying.cancel()
        await self._tidy(0)

    def _catch_up(self) -> None:
        self._behind = False
        events_wait = asyncio.get_running_loop().time() < self._events_from
        after = (-1, -1)
        while len(self._on_way) < WINDOW:
            letters = self._outbox.next(after, WINDOW)
            if not letters:
                return
            for key, letter in letters:
                after = (letter.priority, key)
                if key in self._on_way or (events_wait and letter.priority is Priority.EVENT):
                    continue
                if len(self._on_way) >= WINDOW or not self._start(key, letter):
                    self._behind = True
                    return
        self._behind = True

    def _start(self, key: int, letter: Letter) -> bool:
        future = self._publish(letter.topic, letter.payload, letter.properties)
        if future is None:
            return False
        self._on_way[key] = future
        future.add_done_callback(lambda done: self._arrived(key, done))
        return True

    def _arrived(self, key: int, done: "asyncio.Future[None]") -> None:
        del self._on_way[key]
        if done.cancelled():  # the connection broke; `connected` sends it again
            return
        self._outbox.note_delivered(key)
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._tidy(TIDY_S))
        if self._behind:
            self._catch_up()

    async def _tidy(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            await self._outbox.forget_delivered()
        except StoreError as error:
            log.error("cannot forget messages that were sent", why=str(error))
