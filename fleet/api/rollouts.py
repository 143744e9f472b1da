"""Rollouts, as they go over HTTP. Waves are counted from 1."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contract.ids import END
from contract.release import Kind
from contract.requests import REFERENCE_PATTERN
from fleet.api.forms import Body, Parameters
from fleet.api.nodes import QueryText
from fleet.rollout.amount import Amount, parse_amount
from fleet.rollout.plan import MAX_WAVES, Growth, Plan, Thresholds
from fleet.rollout.state import Pause, Wait
from fleet.rollout.window import parse_window

DAY_S = 24 * 3600.0
MAX_S = 366 * DAY_S
EVERYBODY = "node~*"

Release = Annotated[
    str, Meta(pattern=REFERENCE_PATTERN.replace(")?" + END, ")" + END), description="`name@version`.", max_length=127)
]
AmountText = Annotated[
    str, Meta(pattern=rf"^[0-9]{{1,6}}(\.[0-9]{{1,3}})?%?{END}", description="A number of nodes, or as in `10%`.")
]
WindowText = Annotated[
    str,
    Meta(
        pattern=rf"^([a-z,]{{3,27}} )?[0-9]{{2}}:[0-9]{{2}}-[0-9]{{2}}:[0-9]{{2}}( [A-Za-z0-9_+/-]{{1,64}})?{END}",
        description="As in `22:00-06:00`, or `sat,sun 08:00-20:00 Europe/Berlin`.",
    ),
]
Seconds = Annotated[float, Meta(ge=0, le=MAX_S)]
Ratio = Annotated[float, Meta(gt=0, le=1e6)]
WaveNumber = Annotated[int, Meta(ge=1, le=MAX_WAVES)]
Words = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Limits(Body, frozen=True, kw_only=True):
    """What is too bad; null: nothing is. `fleet.rollout.plan.Thresholds` says what each is."""

    failed: AmountText | None = None
    rejected: AmountText | None = None
    refused: AmountText | None = None
    error_rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    p95_ratio: Ratio | None = None
    speed_ratio: Ratio | None = None
    crashes: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20

    def thresholds(self) -> Thresholds:
        """The same for the engine.

        Raises:
            UsageError: an amount is none.
        """
        return Thresholds(
            failed=_amount(self.failed), rejected=_amount(self.rejected), refused=_amount(self.refused),
            error_rate=self.error_rate, p95_ratio=self.p95_ratio, speed_ratio=self.speed_ratio, crashes=self.crashes,
            min_requests=self.min_requests,
        )  # fmt: skip


class NewGrowth(Body, frozen=True, kw_only=True):
    """Waves that grow: up to `first` nodes in all, then `factor` times as many with each."""

    first: Annotated[int, Meta(ge=1, le=1_000_000)]
    factor: Annotated[float, Meta(ge=1.5, le=1000)]


class Terms(Body, frozen=True, kw_only=True):
    """How fast, when, and what is too bad. What is left out has a default that is sane.

    `growth` is in the place of `waves`. `success` pauses when a wave is judged, `abort` ends it at any time.
    """

    waves: Annotated[tuple[AmountText, ...], Meta(min_length=1, max_length=MAX_WAVES)] = ("10%", "50%", "100%")
    growth: NewGrowth | None = None
    stratify_by: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    soak_s: Seconds = 3600.0
    confirmed_percent: Annotated[float, Meta(ge=0, le=100)] = 90.0
    success: Limits = Limits(error_rate=0.05, p95_ratio=2.0, speed_ratio=0.5)
    abort: Limits = Limits(failed="5%", rejected="5%")
    on_abort: Literal["keep", "revert"] = "revert"
    approve_before: Annotated[tuple[WaveNumber, ...], Meta(max_length=MAX_WAVES)] = ()
    windows: Annotated[tuple[WindowText, ...], Meta(max_length=20)] = ()
    max_unavailable: AmountText = "10%"
    overdue_s: Annotated[float, Meta(ge=1, le=MAX_S)] = DAY_S
    patience_s: Seconds = 7 * DAY_S

    def plan(self, release: str, kind: Kind, targets: str) -> Plan:
        """The plan, still without an id, of a release for these targets.

        Raises:
            UsageError: an amount or a window is none.
        """
        waves = Growth(self.growth.first, self.growth.factor) if self.growth else tuple(map(parse_amount, self.waves))
        return Plan(
            id="", release=release, kind=kind, targets=targets, waves=waves, stratify_by=self.stratify_by,
            soak_ms=_ms(self.soak_s), confirmed_percent=self.confirmed_percent, success=self.success.thresholds(),
            abort=self.abort.thresholds(), on_abort=self.on_abort,
            approve_before=tuple(wave - 1 for wave in self.approve_before),
            windows=tuple(map(parse_window, self.windows)), max_unavailable=parse_amount(self.max_unavailable),
            overdue_ms=_ms(self.overdue_s), patience_ms=_ms(self.patience_s),
        )  # fmt: skip


class NewRollout(Terms, frozen=True, kw_only=True):
    """Who shall get which release, and on which terms."""

    release: Release
    query: QueryText = EVERYBODY


class Forecast(Struct, frozen=True, kw_only=True):
    """Who would get a release in which wave, if nothing went wrong and nobody came or went.

    `away`: of those, who is not there now; `held`: who is held by which other rollout.
    """

    plan: Plan
    waves: list[list[str]]
    num_there: int  # nodes that fit and have it already
    away: list[str]
    held: dict[str, str]


class RolloutView(Struct, frozen=True, kw_only=True):
    """A rollout as people see it. `num_waves`: None while it is not known, since waves grow."""

    id: str
    phase: str
    wave: int
    num_waves: int | None
    counts: dict[str, int]
    wait: Wait | None = None
    until_ms: int | None = None  # of a soak
    pause: Pause | None = None
    reasons: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    actor: str
    created_ms: int
    ended_ms: int | None
    plan: Plan


class NodeView(Struct, frozen=True, kw_only=True):
    """A node of a rollout. `outcome`: None while it is on its way. `error`: why it could not have the release."""

    node: str
    wave: int
    target: str | None
    is_back: bool
    outcome: str | None
    state: str
    phase: str | None = None
    progress: float = 0.0
    error: str | None = None


class RolloutFilter(Parameters, frozen=True, kw_only=True):
    """How many at most."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class NewPause(Body, frozen=True, kw_only=True):
    """Why."""

    reason: Words


class Resumed(Body, frozen=True, kw_only=True):
    """The number of the pause whose reason was read."""

    pause: Annotated[int, Meta(ge=1, le=1_000_000)]


class Approved(Body, frozen=True, kw_only=True):
    """Which wave may begin."""

    wave: WaveNumber


class NewAbort(Body, frozen=True, kw_only=True):
    """Why, and whether nodes that have the release and are well go back too."""

    reason: Words
    revert: bool = True


def _amount(text: str | None) -> Amount | None:
    return None if text is None else parse_amount(text)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
