"""Follows what the controller wishes: the daemon's side of `agent.convergence`.

One thing at a time: the state is stored, then the one thing that is due is done, then the result is stored. A newer
wish and a deadline end a step that runs. What the node is and what becomes of a step are plain callables, so no part of
it knows sockets, models or clocks.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from agent.convergence import Convergence, Do, Plan, due, ended, passed, planned, reported, restarted, wished
from agent.desired import Activate, Change, Present, Running, Step, Wish, plan
from agent.documents import Documents
from agent.errors import AgentError, StoreError
from agent.logs import describe
from agent.store.facts import Facts
from contract.errors import Refused
from contract.steering import Reported

log = structlog.get_logger()

FACT = "convergence"
# For policies of groups that were just named. One that does not exist never comes; one that comes later counts then.
POLICY_WAIT_S = 10.0
STORE_RETRY_S = 5.0


class Steering:
    """Keeps this node on its way to what is wished."""

    def __init__(
        self,
        documents: Documents,
        facts: Facts,
        *,
        present: Callable[[], Present],
        running: Callable[[], Running],
        apply: Callable[[Step], Awaitable[None]],
        on_good: Callable[[Wish], None],
        say: Callable[[Reported], None],
        on_groups: Callable[[list[str]], None],
        on_settings: Callable[[dict[str, Any]], None],
        now_ms: Callable[[], int],
        in_force: Callable[[Wish], Wish] = lambda wish: wish,
        is_exchanging: Callable[[], bool] = lambda: False,
        completed: Callable[[Reported], Reported] = lambda reported: reported,
    ) -> None:
        """`apply` raises AgentError or Refused when a step cannot be done, and bears being cancelled. `on_good` hears
        of each wish that was fulfilled, `on_groups` whose policies are to be had, `on_settings` of settings that were
        changed, as the data of an event.

        `now_ms` is of a clock that only runs forward. `in_force` takes releases that are still to come out of a wish,
        `is_exchanging` is true while they are let serve, when nothing else may; `completed` adds them to a report.

        Raises:
            StoreError: what an earlier run stored cannot be read.
        """
        self._documents = documents
        self._facts = facts
        self._present = present
        self._running = running
        self._apply = apply
        self._on_good = on_good
        self._say = say
        self._on_groups = on_groups
        self._on_settings = on_settings
        self._now_ms = now_ms
        self._in_force = in_force
        self._is_exchanging = is_exchanging
        self._completed = completed
        self._now = _stored(facts)
        self._wish: Wish | None = None
        self._wait_until_ms = 0
        self._news = asyncio.Event()
        self._waits = False  # for releases that are let serve
        self._changed: dict[str, Any] = {}  # settings, since the last wish was over
        self._problem = ""
        self._said: Reported | None = None

    @property
    def last_good(self) -> Wish:
        """What was in force when the last run ended well, and is gone back to."""
        return self._now.last_good

    @property
    def has_news(self) -> bool:
        """Whether the node is not where the last report says. On its way it never is: less time is left."""
        return self._report() != self._said

    def report(self) -> None:
        """Says where the node is: at each change, at each connection, and now and then."""
        self._said = self._report()
        self._say(self._said)

    def _report(self) -> Reported:
        now = self._completed(reported(self._now, self._running(), self._now_ms()))
        return replace(now, error=self._problem) if self._problem else now

    def describe(self) -> dict[str, Any]:
        """Its part of `shoal-agent status`."""
        now = self._report()
        return {
            "rev": now.rev, "policies": now.policies, "phase": now.phase, "progress": now.progress,
            "within_ms": now.within_ms, "error": now.error, "settings": now.settings,
        }  # fmt: skip

    def follow(self) -> None:
        """Takes up what the documents ask for, as far as it is here, once they are all there or late."""
        wish = self._documents.wish
        if wish is None or not (self._documents.is_whole or self._now_ms() >= self._wait_until_ms):
            return
        wish = self._in_force(wish)
        if wish != self._wish or self._waits:
            self._wish = wish
            self._news.set()

    async def take(self, data: bytes, group: str | None = None) -> None:
        """Takes a document as it came."""
        if group is not None and group not in self._documents.groups:
            return  # of a subscription that the broker still has
        try:
            is_new = await self._documents.take(data, group)
        except StoreError as error:
            # The report keeps its older revision, at which the controller sends the document again.
            log.error("cannot keep a document", why=str(error))
            return
        if is_new and group is None:
            self._on_groups(self._documents.groups)
            self._wait_until_ms = self._now_ms() + round(POLICY_WAIT_S * 1000)
            asyncio.get_running_loop().call_later(POLICY_WAIT_S, self.follow)
        if is_new:
            self.follow()
        elif group is None and self._documents.knows(data) and self._is_following:
            self.report()  # who sends it again has not heard that it is here

    @property
    def _is_following(self) -> bool:
        """Whether the report names the newest wish."""
        wish = self._documents.wish
        return wish is not None and self._report().rev >= wish.rev

    async def run(self) -> None:
        """Goes on where the last run ended, and follows every wish, until cancelled."""
        await self._move(restarted(self._now, self._now_ms()))
        self.follow()
        while True:
            try:
                await self._advance()
            except Exception as error:  # noqa: BLE001  # whatever it is, this node must go on being steered
                log.error("cannot follow the desired state", **describe(error))
                await asyncio.sleep(STORE_RETRY_S)

    async def _advance(self) -> None:
        self._news.clear()
        at_ms = self._now_ms()
        moved = passed(wished(self._now, self._wish, at_ms) if self._wish else self._now, at_ms)
        if moved != self._now:
            await self._move(moved)
            return
        match due(self._now):
            case None:
                await self._news.wait()
            case Plan(goal=goal):
                await self._move(planned(self._now, goal, plan(goal, self._present(), self._running()), at_ms))
            case Do(step=Activate()) if self._is_exchanging():
                self._waits = True
                await self._news.wait()
                self._waits = False
            case Do(step=step):
                await self._do(step)

    async def _do(self, step: Step) -> None:
        """Does a step, unless a newer wish or its deadline comes first: then `_advance` sees what is due."""
        doing = asyncio.create_task(self._try(step))
        news = asyncio.create_task(self._news.wait())
        try:
            left_s = max(0, self._now.deadline_ms - self._now_ms()) / 1000
            await asyncio.wait({doing, news}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return
            error = doing.result()
            if error is None and isinstance(step, Change):
                self._changed[step.name] = step.value
            await self._move(ended(self._now, step, error, self._now_ms()))
        finally:
            for task in (doing, news):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _try(self, step: Step) -> str | None:
        try:
            await self._apply(step)
        except AgentError as error:
            return str(error)
        except Refused as no:
            return no.message
        except Exception as error:  # noqa: BLE001  # whatever it is: the wish ends, the node goes on
            log.error("cannot apply a wish", **describe(error))
            return "cannot apply it: the node has a fault; see its log"
        return None

    async def _move(self, moved: Convergence) -> None:
        """Stores where the node is, before it acts on it."""
        while moved != self._now:
            try:
                await self._facts.put(FACT, msgspec.json.encode(moved).decode())
            except StoreError as error:
                if str(error) != self._problem:
                    log.error("cannot follow the desired state", why=str(error))
                    self._problem = str(error)
                    self.report()
                await asyncio.sleep(STORE_RETRY_S)
            else:
                before, self._now, self._problem = self._now, moved, ""
                self._tell(before)
        self.report()

    def _tell(self, before: Convergence) -> None:
        now = self._now
        if now.last_good != before.last_good:
            self._on_good(now.last_good)
        if now.is_over and not before.is_over:
            log.info("desired state", rev=now.wish.rev, phase=now.state.value, why=now.error)
            if self._changed:
                self._on_settings({"rev": now.wish.rev, "changed": self._changed})
                self._changed = {}


def _stored(facts: Facts) -> Convergence:
    """What an earlier run stored; that of a version with other states counts for nothing, its documents do."""
    text = facts.get(FACT)
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(text, type=Convergence) if text else Convergence()
    return Convergence()
