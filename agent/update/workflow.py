"""How a node gets from the release that it has to the one that is wished: states, transitions, deadlines. Pure.

The daemon stores the state, then does the one thing that `due` names, then tells how it ended: one thing at a time.
Times are of a clock that only runs forward, also over restarts; random numbers are passed in.

Checking asks for the signed metadata, admitting looks at kind, base model, processor, disk and memory before the first
byte, fetching gets segments, assembling makes files of them, gating lets the candidate show what it can
(`agent.update.gate`), switching lets it serve, restoring lets the last good one serve again.

A release serves from when it is confirmed, and is the last good one after `PROBATION_MS`; when it crashes too often
before, what was the last good one comes back. While models are exchanged a newer goal waits, so what serves is always a
whole release, the old or the new.
"""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from agent.update.transitions import EXCHANGING, HOUR_MS, LIMIT_MS, MINUTE_MS, TABLE, WAY, Happening, State
from contract.steering import Phase, Reported

MAX_ATTEMPTS = 3
MAX_FETCH_ATTEMPTS = 200  # with `MAX_BACKOFF_MS` between most of them, two days without a single byte
FIRST_BACKOFF_MS = 5_000
MAX_BACKOFF_MS = 15 * MINUTE_MS

PROBATION_MS = HOUR_MS
MAX_CRASHES = 3  # on probation, within `CRASHES_MS`
CRASHES_MS = 10 * MINUTE_MS


class Goal(Struct, frozen=True):
    """The release of a desired state; None is the node's own default."""

    rev: int = 0
    release: str | None = None


class Update(Struct, frozen=True, kw_only=True):
    """Where a node is: what it stores before it acts."""

    goal: Goal = Goal()
    next_goal: Goal | None = None  # came while models were exchanged
    active: str | None = None
    last_good: str | None = None
    state: State = State.IDLE
    work: int = 0  # counts all that was ever begun
    num_vain: int = 0  # attempts in a row without any progress
    progress: float = 0.0  # of the state
    not_before_ms: int = 0  # the next attempt
    deadline_ms: int = 0
    probation_ms: int | None = None  # until when `active` is not the last good one yet
    crashes_ms: tuple[int, ...] = ()  # of `active`, on probation
    gate: dict[str, Any] | None = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done until there is a newer goal."""
        return self.state not in LIMIT_MS

    @property
    def serves(self) -> str | None:
        """The release to start with when the agent starts now."""
        return self.last_good if self.state is State.RESTORING else self.active

    @property
    def is_judged(self) -> bool:
        """Whether the goal's release has shown on this node that it is bad."""
        return self.state is State.ROLLED_BACK or (self.state is State.REFUSED and self.gate is not None)


class Work(Struct, frozen=True):
    """What is due: that of a state, with a release. Its outcome goes to `ended`; the number tells it from all other."""

    state: State
    release: str | None
    number: int


class Done(Struct, frozen=True):
    """It went well. `gate` is what the gate measured."""

    gate: dict[str, Any] | None = None


class Refused(Struct, frozen=True):
    """This node cannot have the release, or should not: trying again would change nothing."""

    reason: str
    gate: dict[str, Any] | None = None


class Failed(Struct, frozen=True):
    """It went wrong for good, such as a source that says that there is no such file."""

    reason: str


class Troubled(Struct, frozen=True):
    """It went wrong this time. `after_ms`: how long a source asks to be left alone."""

    reason: str
    after_ms: int = 0


Outcome = Done | Refused | Failed | Troubled


def wished(now: Update, goal: Goal, at_ms: int) -> Update:
    """There is a goal. One that is known already, or older, changes nothing.

    A newer revision of what is on its way disturbs nothing, what is active already is confirmed at once, and what was
    judged here is judged: it has to be another release.
    """
    newest = now.next_goal or now.goal
    if goal.rev <= newest.rev:
        return now
    if now.state in EXCHANGING:
        return replace(now, next_goal=goal)
    if goal.release == now.goal.release and (now.state is State.CONFIRMED or not now.is_over or now.is_judged):
        return replace(now, goal=goal)
    return _begun(now, goal, at_ms)


def due(now: Update, at_ms: int) -> Work | None:
    """What the daemon is to do now; None: nothing, or nothing before `not_before_ms`."""
    if now.is_over or at_ms < now.not_before_ms:
        return None
    release = now.last_good if now.state is State.RESTORING else now.goal.release
    return Work(now.state, release, now.work)


def progressed(now: Update, work: Work, progress: float) -> Update:
    """A part of the work is done, from 0 to 1. It never goes back; any of it makes the attempts whole again."""
    if not _is_due(now, work) or progress <= now.progress:
        return now
    return replace(now, progress=min(1.0, progress), num_vain=0)


def ended(now: Update, work: Work, outcome: Outcome, at_ms: int, chance: float) -> Update:
    """Work has ended. If it is not what is due, that changes nothing. `chance` is a random number from 0 to 1."""
    if not _is_due(now, work):
        return now
    match outcome:
        case Done(gate):
            error = now.error if now.state is State.RESTORING else None  # why it goes back stays to be read
            return _happened(replace(now, gate=gate or now.gate, error=error), Happening.DONE, at_ms)
        case Refused(reason, gate):
            return _happened(replace(now, gate=gate or now.gate, error=reason), Happening.REFUSED, at_ms)
        case Failed(reason):
            return _happened(replace(now, error=reason), Happening.FAILED, at_ms)
        case Troubled(reason, after_ms):
            backoff_ms = min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** min(now.num_vain, 10))
            wait_ms = max(after_ms, round(backoff_ms * (0.5 + 0.5 * chance)))
            return _tried(now, Happening.TROUBLED, reason, at_ms, at_ms + wait_ms)


def passed(now: Update, at_ms: int) -> Update:
    """Time has passed."""
    if now.probation_ms is not None and at_ms >= now.probation_ms:
        now = replace(now, last_good=now.active, probation_ms=None, crashes_ms=())
    if now.is_over or at_ms < now.deadline_ms:
        return now
    why = f"; last: {now.error}" if now.error else ""
    error = f"cannot finish {now.state.value} in {LIMIT_MS[now.state]} ms{why}"
    return _happened(replace(now, error=error), Happening.TOO_LATE, at_ms)


def cancelled(now: Update, at_ms: int) -> Update:
    """Nobody wants it any more. What is being exchanged is exchanged."""
    return _happened(now, Happening.CANCELLED, at_ms)


def crashed(now: Update, at_ms: int) -> Update:
    """The release that serves has crashed. On probation, a few times are too often."""
    if now.probation_ms is None:
        return now
    recent = (*(crash_ms for crash_ms in now.crashes_ms if at_ms - crash_ms < CRASHES_MS), at_ms)
    now = replace(now, crashes_ms=recent)
    if len(recent) < MAX_CRASHES:
        return now
    minutes = CRASHES_MS // MINUTE_MS
    return given_up(now, f"cannot keep {now.active}: it crashed {len(recent)} times in {minutes} minutes", at_ms)


def given_up(now: Update, why: str, at_ms: int) -> Update:
    """The release that serves gives way to the last good one, unless models are being exchanged."""
    if (now.state, Happening.CRASHED) not in TABLE:
        return now
    unfinished = None if now.is_over else now.goal  # it is begun anew afterwards
    return _happened(replace(now, next_goal=unfinished, error=why), Happening.CRASHED, at_ms)


def restarted(now: Update, at_ms: int) -> Update:
    """The agent starts anew, with `serves`. That may have been the release's fault, so it counts as a crash of it."""
    if now.state in WAY:
        now = _tried(now, Happening.RESTARTED, f"the agent ended while {now.state.value}", at_ms, at_ms)
    else:
        now = _happened(now, Happening.RESTARTED, at_ms)
    return crashed(now, at_ms)


def reported(now: Update, others: Reported, at_ms: int) -> Reported:
    """What the node says about itself, with where this is in place of where `others` is."""
    phase: Phase = "switching" if now.state is State.RESTORING else now.state.value
    way = WAY.index(now.state) + now.progress if now.state in WAY else 0.0
    return replace(
        others,
        phase=phase,
        progress=1.0 if now.state is State.CONFIRMED else way / len(WAY),
        within_ms=None if now.is_over else max(0, now.deadline_ms - at_ms),
        gate=now.gate,
        error=now.error,
    )


def _is_due(now: Update, work: Work) -> bool:
    return not now.is_over and work.number == now.work


def _begun(now: Update, goal: Goal, at_ms: int) -> Update:
    what = Happening.HAS_IT if goal.release == now.active else Happening.WISHED
    return _happened(replace(now, goal=goal, next_goal=None, gate=None, error=None), what, at_ms)


def _tried(now: Update, what: Happening, error: str, at_ms: int, not_before_ms: int) -> Update:
    """An attempt was in vain. The deadline stays that of the state, and so does its progress."""
    num_vain = now.num_vain + 1
    if num_vain >= (MAX_FETCH_ATTEMPTS if now.state is State.FETCHING else MAX_ATTEMPTS):
        error = f"cannot finish {now.state.value} in {num_vain} attempts; the last one: {error}"
        return _happened(replace(now, error=error), Happening.FAILED, at_ms)
    state, work = TABLE[now.state, what], now.work + 1
    return replace(now, state=state, error=error, work=work, num_vain=num_vain, not_before_ms=not_before_ms)


def _happened(now: Update, what: Happening, at_ms: int) -> Update:
    following = TABLE.get((now.state, what))
    if following is None:
        return now
    if following is State.CONFIRMED and what is Happening.DONE:
        release = now.goal.release
        probation_ms = None if release == now.last_good else at_ms + PROBATION_MS
        now = replace(now, active=release, probation_ms=probation_ms, crashes_ms=())
    elif following is State.RESTORING:
        now = replace(now, probation_ms=None, crashes_ms=())  # what is on its way out will not become the last good one
    elif following is State.ROLLED_BACK:
        now = replace(now, active=now.last_good)
    moved = replace(
        now,
        state=following,
        work=now.work + 1,
        num_vain=0,
        progress=0.0,
        not_before_ms=at_ms,
        deadline_ms=at_ms + LIMIT_MS.get(following, 0),
    )
    return _begun(moved, moved.next_goal, at_ms) if moved.next_goal is not None and moved.is_over else moved
