"""How nodes answered with a release since a time: kept up to date from the telemetry that comes, row by row.

Each row is read once. Of a node that is asked for the first time those of the last two days are read. Rows of several
models that were folded into one say nothing of a release and are left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from sqlalchemy import Connection

from contract import histogram
from contract.telemetry import InferRow
from fleet.database.heard import named_events
from fleet.database.readings import newest_number, rows_between, rows_since
from fleet.database.store import Database
from fleet.rollout.judgement import Seen
from fleet.rollout.observation import Metrics
from fleet.rollout.plan import HOUR_MS, Plan
from fleet.rollout.state import Outcome, State
from fleet.stored import read

DIED = "engine_died"
BEFORE_MS = 24 * HOUR_MS  # what nodes answered before is measured over so long


class Tally(Struct):
    """What one node counted with a release."""

    since_ms: int
    num_requests: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    decode_s: float = 0.0
    first_token_ms: histogram.Histogram = field(default_factory=histogram.Histogram)

    def take(self, release: str, text: str) -> None:
        """Counts a row, if it is of this release. What a sender did wrong or took back is not the release's doing."""
        row = read(text, InferRow)
        if row is None or release not in (row.model, row.adapter):
            return
        self.num_errors += row.failed + row.unfit + row.late
        self.num_requests += row.ok + row.failed + row.unfit + row.late
        self.num_tokens += row.completion_tokens
        self.decode_s += row.decode_s
        if row.first_token_ms:
            self.first_token_ms = histogram.merge([self.first_token_ms, histogram.decode(row.first_token_ms)])

    def metrics(self, num_crashes: int = 0) -> Metrics:
        """What a rollout wants to know."""
        return Metrics(
            since_ms=self.since_ms,
            num_requests=self.num_requests,
            num_errors=self.num_errors,
            p95_ms=self.first_token_ms.quantile(0.95),
            tok_s=self.num_tokens / self.decode_s if self.decode_s else None,
            num_crashes=num_crashes,
        )


class Measuring:
    """What nodes counted before and after a rollout gave them its release. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followed: dict[str, Followed] = {}

    def after(self, plan: Plan, state: State) -> dict[str, Metrics]:
        """What those counted with the release that have confirmed it, each since then."""
        since = {
            name: node.ended_ms
            for name, node in state.nodes.items()
            if node.outcome is Outcome.CONFIRMED and not node.is_back and node.ended_ms is not None
        }
        if not since or not plan.asks_metrics:
            return {}
        followed = self._followed.setdefault(plan.id, Followed(plan.release))
        with self._database.read() as connection:
            return followed.look(connection, since)

    def before(self, plan: Plan, seen: Seen, names: Iterable[str], now_ms: int) -> dict[str, Metrics]:
        """What these counted lately with what is active on them."""
        if not plan.asks_metrics:
            return {}
        found = {}
        with self._database.read() as connection:
            newest = newest_number(connection)
            for name in names:
                if (active := seen[name].active) is not None:
                    found[name] = _counted(connection, name, active, now_ms - BEFORE_MS, newest).metrics()
        return found

    def forget(self, plan: Plan) -> None:
        """Its rollout is over."""
        self._followed.pop(plan.id, None)


class Followed:
    """The nodes of one rollout, whose rows are counted as they come."""

    def __init__(self, release: str) -> None:
        self._release = release
        self._tallies: dict[str, Tally] = {}
        self._row_number = 0

    def look(self, connection: Connection, since: Mapping[str, int]) -> dict[str, Metrics]:
        """What these nodes counted, each since its time."""
        newest = newest_number(connection)
        self._tallies = {node: one for node, one in self._tallies.items() if since.get(node) == one.since_ms}
        for node, at_ms, text in rows_between(connection, self._row_number, newest) if self._tallies else ():
            tally = self._tallies.get(node)
            if tally is not None and at_ms >= tally.since_ms:
                tally.take(self._release, text)
        for node in since.keys() - self._tallies.keys():
            self._tallies[node] = _counted(connection, node, self._release, since[node], newest)
        self._row_number = newest
        deaths = named_events(connection, DIED, min(since.values()))
        crashes = Counter(node for node, at_ms in deaths if at_ms >= since.get(node, at_ms + 1))
        return {node: one.metrics(crashes[node]) for node, one in self._tallies.items()}


def _counted(connection: Connection, node: str, release: str, since_ms: int, newest: int) -> Tally:
    """What a node counted with a release since a time, up to the row of this number."""
    tally = Tally(since_ms)
    for text in rows_since(connection, node, since_ms, newest):
        tally.take(release, text)
    return tally
