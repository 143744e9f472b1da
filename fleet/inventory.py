"""Everything that is known of the nodes: in memory, so that questions are quick; the database is behind it.

`fleet.intake` puts in what nodes say, on one thread; any thread reads. What belongs together is one value that is
replaced, so a reader never sees half of a message.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import msgspec

from contract.presence import Card, NodeState
from contract.steering import Event, Reported
from contract.telemetry import InferRow, SysRow, fold
from fleet.api.nodes import Detail, SeenEvent
from fleet.api.summary import Rolling, Summary, Unwell
from fleet.causes import causes
from fleet.database import heard
from fleet.database.readings import rows_of
from fleet.database.rollouts import Rollout
from fleet.database.store import Database
from fleet.evidence import Evidence
from fleet.fields import Record
from fleet.gathering import LATELY_MS, Site, gather
from fleet.matching import fits
from fleet.nodes import WELL, Machine, Node, blank, read_reported, traits_of
from fleet.query import Query
from fleet.series import Series
from fleet.stored import read, read_all
from fleet.wishes import Wishes

NUM_WORST = 20
NUM_EVENTS = 20


class Inventory:
    """All nodes. `load` it once."""

    def __init__(self, database: Database, now_ms: Callable[[], int], revision_floor: int = 0) -> None:
        """`revision_floor` is the folder's."""
        self._database = database
        self._now_ms = now_ms
        self.wishes = Wishes(revision_floor)
        self.nodes: dict[str, Node] = {}
        self.heard_ms: int | None = None
        self.num_bad_messages = 0
        self.broker_down_since_ms: int | None = now_ms()  # kept by the intake, as are the two above
        self.is_stored = True
        self.rollouts: tuple[Rollout, ...] = ()  # those under way; kept by `fleet.rollouts`
        self._change = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self) -> None:
        """Reads what the database has."""
        with self._database.read() as connection:
            self.wishes.load(connection)
            for name, status, card, reported, reported_ms, seen_ms in heard.all_nodes(connection):
                node = self.node(name)
                node.seen_ms, node.reported_ms = seen_ms, reported_ms
                node.status = read(status, NodeState) if status else None
                if card and (said := read(card, Card)) is not None:
                    node.card, node.traits = card.encode(), traits_of(said)
                with contextlib.suppress(msgspec.ValidationError):
                    node.reported = read_reported(reported.encode()) if reported else None
            for name, kind, at_ms, series, last in heard.all_series(connection):
                node = self.node(name)
                node.seen_ms = max(node.seen_ms or 0, at_ms)
                node.series[kind] = msgspec.json.decode(series, type=Series)
                if last and (row := read(last, SysRow)) is not None:
                    node.machine = Machine(at_ms, row)
        self.heard_ms = max((node.seen_ms for node in self.nodes.values() if node.seen_ms), default=None)

    # For `fleet.intake`.

    def node(self, name: str) -> Node:
        """A node; a blank one when it is new."""
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = blank(name)
        return node

    def announce(self) -> None:
        """Something has changed. On any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # For everybody.

    def knows(self, node: str) -> bool:
        """Whether there is such a node: it was heard, or may come."""
        if node in self.nodes:
            return True
        with self._database.read() as connection:
            identity = heard.identity_of(connection, node)
        return identity is not None and identity.revoked_ms is None

    def is_online(self, node: str) -> bool:
        """Whether a message would reach it now, as far as the broker knows."""
        found = self.nodes.get(node)
        return found is not None and found.is_online

    def record(self, node: str) -> Record | None:
        """What can be asked about a node; None when it was never heard."""
        found = self.nodes.get(node)
        return found.record() if found else None

    def records(self) -> list[Record]:
        """What can be asked about every node that was ever heard."""
        return [node.record() for node in list(self.nodes.values())]

    def find(self, query: Query) -> list[Record]:
        """The nodes that fit, by name."""
        now_ms = self._now_ms()
        found = [record for record in self.records() if fits(query, record, now_ms)]
        return sorted(found, key=lambda record: record.node)

    def labels(self) -> set[str]:
        """Names of labels that some node has, for `query.parse`."""
        return {name for node in list(self.nodes.values()) for name in node.traits.labels}

    def reported(self, node: str) -> Reported | None:
        """What a node has reported last."""
        found = self.nodes.get(node)
        return found.reported if found else None

    def reported_rev(self, node: str) -> int | None:
        """The revision that a node has reported last."""
        reported = self.reported(node)
        return reported.rev if reported else None

    def detail(self, node: str) -> Detail | None:
        """All that is known of a node; None when there is no such node."""
        if not self.knows(node):
            return None
        found, held = self.nodes.get(node, blank(node)), self.wishes.held(node)
        with self._database.read() as connection:
            events = heard.events_of(connection, node, 0, NUM_EVENTS)
            infer = rows_of(connection, node, "infer", self._now_ms() - LATELY_MS, self._now_ms() + 1, None)
        rows = list(read_all((row.row for row in infer), InferRow))
        return Detail(
            record=found.record(),
            card=msgspec.json.decode(found.card, type=Card) if found.card else None,
            reported=found.reported,
            reported_ms=found.reported_ms if found.reported else None,
            desired=held.document if held else None,
            gaps={kind: series.num_gaps for kind, series in found.series.items()},
            events=[
                SeenEvent(at_ms, kind, event)
                for kind, at_ms, text in events
                if (event := read(text, Event)) is not None
            ],
            sys=found.machine.row if found.machine else None,
            sys_ms=found.machine.at_ms if found.machine else None,
            infer=fold(rows) if rows else None,
            rollout=next((one.plan.id for one in self.rollouts if node in one.state.nodes), None),
        )

    def evidence(self, node: str) -> Evidence:
        """What `fleet.causes` goes by. Of a node that nobody knows there is none but its name."""
        return self._evidence(self.nodes.get(node, blank(node)), self._sites())

    def summary(self) -> Summary:
        """The fleet at a glance."""
        now_ms = self._now_ms()
        with self._database.read() as connection:
            expected = heard.expected_nodes(connection)
            revoked = heard.revoked_nodes(connection)
        unheard = sorted(expected.keys() - self.nodes.keys())
        never_came = [name for name in unheard if expected[name]]
        not_enrolled = [name for name in unheard if not expected[name]]
        # Who was locked out and is away is as it should be.
        nodes = [node for node in list(self.nodes.values()) if node.name not in revoked or node.is_online]
        ranked = [(rank, node) for node in nodes if (rank := node.rank(now_ms)) < WELL]
        ranked.sort(key=lambda one: (one[0], one[1].name))
        sites = self._sites()
        return Summary(
            at_ms=now_ms, heard_ms=self.heard_ms, num_nodes=len(nodes),
            states=dict(Counter(node.state for node in nodes)),
            num_revoked=len(self.nodes) - len(nodes),
            num_not_enrolled=len(not_enrolled), not_enrolled=not_enrolled[:NUM_WORST],
            num_never_came=len(never_came), never_came=never_came[:NUM_WORST],
            num_unwell=len(ranked), worst=[self._unwell(node, sites) for _, node in ranked[:NUM_WORST]],
            num_gaps=sum(node.num_gaps for node in nodes), num_bad_messages=self.num_bad_messages,
            broker_down_s=self._broker_down_s(), is_stored=self.is_stored,
            rollouts=[_rolling(rollout) for rollout in self.rollouts],
        )  # fmt: skip

    async def changed(self) -> None:
        """Waits for the next change."""
        self._loop = asyncio.get_running_loop()
        await self._change.wait()

    def _evidence(self, node: Node, sites: dict[str, Site]) -> Evidence:
        site = sites.get(node.traits.site or "") or Site()
        with self._database.read() as connection:
            return gather(connection, node, site, self.wishes.rev(node.name), self._broker_down_s(), self._now_ms())

    def _unwell(self, node: Node, sites: dict[str, Site]) -> Unwell:
        try:
            root = next(iter(causes(self._evidence(node, sites))), None)
        except (ValueError, TypeError, LookupError, ArithmeticError):  # what one node said must not hide the others
            return Unwell(node.name, node.state, node.seen_ms, "unreadable", "what is known of it cannot be read")
        return Unwell(node.name, node.state, node.seen_ms, root.name if root else None, root.summary if root else "")

    def _sites(self) -> dict[str, Site]:
        """How many nodes each site has, and how many of them are lost."""
        nodes = list(self.nodes.values())
        lost = Counter(node.traits.site for node in nodes if node.state == "lost")
        everybody = Counter(node.traits.site for node in nodes)
        return {site: Site(count, lost[site]) for site, count in everybody.items() if site}

    def _broker_down_s(self) -> float | None:
        since_ms = self.broker_down_since_ms
        return None if since_ms is None else (self._now_ms() - since_ms) / 1000


def _rolling(rollout: Rollout) -> Rolling:
    plan, state = rollout.plan, rollout.state
    waits = f"{state.wait.cause.value}: {', '.join(state.wait.names[:NUM_WORST])}" if state.wait else ""
    return Rolling(plan.id, plan.release, state.phase.value, state.wave + 1, rollout.counts, waits)
