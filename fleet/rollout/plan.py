"""What an operator wants of a rollout: to whom, how fast, when, and what is too bad. Never changed once it runs."""

from typing import Literal

from msgspec import Struct

from contract.release import Kind
from fleet.errors import UsageError
from fleet.fields import FIELDS, kind_of
from fleet.query import parse
from fleet.rollout.amount import Amount
from fleet.rollout.window import Window, check_window

HOUR_MS = 3_600_000
MAX_WAVES = 100
METRICS = ("error_rate", "p95_ratio", "speed_ratio", "crashes")  # thresholds that need telemetry


class Growth(Struct, frozen=True):
    """Waves that grow: up to `first` nodes in all, then `factor` times as many with each wave, rounded up."""

    first: int
    factor: float


class Thresholds(Struct, frozen=True, kw_only=True):
    """What is still well. None: whatever it is.

    Amounts are of the nodes that were given the release: a percentage of few nodes is less than one of them, so then
    none may fail. Metrics are those of each stratum for itself, since one kind of machine can be slow where the fleet
    as a whole is not.
    """

    failed: Amount | None = None  # failed, rolled back, or gave no end in time
    rejected: Amount | None = None  # by the gate: bad
    refused: Amount | None = None  # before the first byte: has no room for it, or another architecture
    error_rate: float | None = None
    p95_ratio: float | None = None  # of latency after to before, median of the nodes
    speed_ratio: float | None = None  # of tokens a second after to before, median of the nodes; at least
    crashes: int | None = None  # of all nodes of a stratum, since they have the release
    min_requests: int = 20  # of a stratum: fewer say nothing about errors, latency and speed


class Plan(Struct, frozen=True, kw_only=True):
    """A rollout as it was ordered.

    Of an adapter it is about the one of this name: other adapters of a node, and its model, stay as they are.

    `waves` says how many nodes have been given the release at the end of each wave, all waves before it included; when
    the last says less than all, it ends there. `targets` is a query, looked at anew at each step: who begins to fit is
    in, who was given the release stays in.
    """

    id: str
    release: str
    kind: Kind = "model"
    targets: str
    waves: tuple[Amount, ...] | Growth = (Amount(100, is_percent=True),)
    stratify_by: str | None = None  # a field of the query language, as in label.board
    soak_ms: int = HOUR_MS  # from the end of a wave's last node until it is judged
    confirmed_percent: float = 90  # of a wave's nodes, without those that refused: with fewer there is no next wave
    success: Thresholds = Thresholds()  # crossed when a wave is judged: pause
    abort: Thresholds = Thresholds(failed=Amount(5, is_percent=True), rejected=Amount(5, is_percent=True))
    on_abort: Literal["keep", "revert"] = "revert"
    approve_before: tuple[int, ...] = ()  # waves, from 0, that somebody must approve
    windows: tuple[Window, ...] = ()  # when nodes may be given the release; going back does not wait for one
    max_unavailable: Amount = Amount(10, is_percent=True)  # at least one, else nothing would ever begin
    overdue_ms: int = 24 * HOUR_MS  # a node that is there and gives no end for so long counts as failed
    patience_ms: int = 7 * 24 * HOUR_MS  # with nodes that are away, before it ends without them

    @property
    def asks_metrics(self) -> bool:
        """Whether it matters how nodes answer."""
        return any(
            getattr(thresholds, name) is not None for thresholds in (self.success, self.abort) for name in METRICS
        )


def check_plan(plan: Plan) -> None:
    """Whether it can be followed.

    Raises:
        UsageError: says what would do instead.
    """
    parse(plan.targets)
    if plan.stratify_by is not None and kind_of(plan.stratify_by) is None:
        raise UsageError(f"cannot spread waves by {plan.stratify_by!r}: there are {', '.join(FIELDS)} and label.NAME")
    for window in plan.windows:
        check_window(window)
    if isinstance(plan.waves, Growth):
        if plan.waves.first < 1 or not 1.5 <= plan.waves.factor <= 1000:
            raise UsageError(
                f"cannot grow from {plan.waves.first} by {plan.waves.factor}: begin with at least 1, by at least 1.5"
            )
    elif not 1 <= len(plan.waves) <= MAX_WAVES or any(amount.number <= 0 for amount in plan.waves):
        raise UsageError(f"cannot use these {len(plan.waves)} waves: 1 to {MAX_WAVES} of at least one node are")
    if not 0 <= plan.confirmed_percent <= 100:
        raise UsageError(f"cannot ask for {plan.confirmed_percent} % of a wave: 0 to 100 is possible")
    if not 0 <= plan.soak_ms <= plan.patience_ms or plan.overdue_ms <= 0:
        raise UsageError(
            f"cannot use soak {plan.soak_ms} ms, patience {plan.patience_ms} ms, overdue {plan.overdue_ms} ms:"
            " none is negative, and patience is at least the soak"
        )
