"""How a node gets from what it is to what it is wished to be: states, transitions, deadlines. Pure.

The daemon stores the state, then does the one thing that `due` names, then tells the result: one thing at a time.
Every state that is not an end has a deadline, on a clock that only runs forward.

| state       | what happened           | next state  |                                                      |
|-------------|-------------------------|-------------|------------------------------------------------------|
| any         | a newer wish            | checking    |                                                      |
| checking    | planned                 | switching   |                                                      |
|             | impossible              | refused     | until there is a newer wish                          |
|             | too late                | failed      | nothing was changed                                  |
|             | restarted               | checking    | at most `MAX_ATTEMPTS` times, then failed            |
| switching   | all done                | confirmed   | the wish is the last good one from now on            |
|             | step failed, too late   | restoring   | towards the last good wish                           |
|             | restarted               | checking    | at most `MAX_ATTEMPTS` times, then failed            |
| confirmed   | restarted               | checking    | files and configuration may have changed meanwhile   |
| restoring   | all done, restarted     | rolled_back | the daemon starts with the last good wish            |
|             | step failed, impossible | failed      |                                                      |
|             | too late                | failed      |                                                      |

What is not in the table changes nothing: a result that comes late is nobody's any more.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from agent.desired import Impossible, Running, Step, Wish
from contract.steering import Phase, Reported

MAX_ATTEMPTS = 3
CHECKING_MS = 30_000
SWITCHING_MS = 600_000  # three times `[engine] start_timeout_s`: the old model ends, the new one starts, perhaps twice


class State(Enum):
    """Where a node is with its wish. The values are those of `contract.steering.Phase`, but for `RESTORING`."""

    IDLE = "idle"
    CHECKING = "checking"
    SWITCHING = "switching"
    RESTORING = "restoring"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"


class Happening(Enum):
    """What can happen to it."""

    PLANNED = "planned"
    IMPOSSIBLE = "impossible"
    ALL_DONE = "all done"
    STEP_FAILED = "step failed"
    TOO_LATE = "too late"
    RESTARTED = "restarted"


TABLE: dict[tuple[State, Happening], State] = {
    (State.CHECKING, Happening.PLANNED): State.SWITCHING,
    (State.CHECKING, Happening.IMPOSSIBLE): State.REFUSED,
    (State.CHECKING, Happening.TOO_LATE): State.FAILED,
    (State.CHECKING, Happening.RESTARTED): State.CHECKING,
    (State.SWITCHING, Happening.ALL_DONE): State.CONFIRMED,
    (State.SWITCHING, Happening.STEP_FAILED): State.RESTORING,
    (State.SWITCHING, Happening.TOO_LATE): State.RESTORING,
    (State.SWITCHING, Happening.RESTARTED): State.CHECKING,
    (State.CONFIRMED, Happening.RESTARTED): State.CHECKING,
    (State.RESTORING, Happening.ALL_DONE): State.ROLLED_BACK,
    (State.RESTORING, Happening.RESTARTED): State.ROLLED_BACK,
    (State.RESTORING, Happening.STEP_FAILED): State.FAILED,
    (State.RESTORING, Happening.IMPOSSIBLE): State.FAILED,
    (State.RESTORING, Happening.TOO_LATE): State.FAILED,
}
LIMIT_MS = {State.CHECKING: CHECKING_MS, State.SWITCHING: SWITCHING_MS, State.RESTORING: SWITCHING_MS}


class Convergence(Struct, frozen=True, kw_only=True):
    """Where a node is: what it stores before it acts. `steps` is None until the way to `goal` is planned."""

    wish: Wish = Wish()
    last_good: Wish = Wish()
    state: State = State.IDLE
    steps: list[Step] | None = None
    num_done: int = 0
    attempt: int = 1
    deadline_ms: int = 0
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done until there is a newer wish."""
        return self.state not in LIMIT_MS

    @property
    def goal(self) -> Wish:
        """Towards what its steps lead."""
        return self.last_good if self.state is State.RESTORING else self.wish


class Plan(Struct, frozen=True):
    """What is due: a plan for `goal`; its outcome goes to `planned`."""

    goal: Wish


class Do(Struct, frozen=True):
    """What is due: a step; its outcome goes to `ended`."""

    step: Step


def wished(now: Convergence, wish: Wish, at_ms: int) -> Convergence:
    """There is a wish. The one that is known already changes nothing, an older one neither."""
    is_older = wish.rev < now.wish.rev or any(wish.policies.get(g, rev) < rev for g, rev in now.wish.policies.items())
    if wish == now.wish or is_older:
        return now
    return _enter(replace(now, wish=wish, attempt=1, error=None), State.CHECKING, at_ms)


def due(now: Convergence) -> Plan | Do | None:
    """What the daemon is to do next."""
    if now.is_over:
        return None
    return Plan(now.goal) if now.steps is None else Do(now.steps[now.num_done])


def planned(now: Convergence, goal: Wish, outcome: list[Step] | Impossible, at_ms: int) -> Convergence:
    """A plan for `goal` was made. If that is the goal no more, it changes nothing."""
    if due(now) != Plan(goal):
        return now
    if isinstance(outcome, Impossible):
        return _happened(now, Happening.IMPOSSIBLE, at_ms, outcome.reason)
    moved = replace(_happened(now, Happening.PLANNED, at_ms), steps=outcome)
    return moved if outcome else _happened(moved, Happening.ALL_DONE, at_ms)


def ended(now: Convergence, step: Step, error: str | None, at_ms: int) -> Convergence:
    """A step has ended, well or with an error. One that is not due any more changes nothing."""
    if due(now) != Do(step):
        return now
    if error is not None:
        return _happened(now, Happening.STEP_FAILED, at_ms, error)
    moved = replace(now, num_done=now.num_done + 1)
    return _happened(moved, Happening.ALL_DONE, at_ms) if moved.num_done == len(now.steps or ()) else moved


def passed(now: Convergence, at_ms: int) -> Convergence:
    """Time has passed."""
    if now.is_over or at_ms < now.deadline_ms:
        return now
    return _happened(now, Happening.TOO_LATE, at_ms, f"cannot finish {now.state.value} in {LIMIT_MS[now.state]} ms")


def restarted(now: Convergence, at_ms: int) -> Convergence:
    """The daemon starts anew, with `last_good` in force; what was stored goes on, but not for ever."""
    if now.state not in (State.CHECKING, State.SWITCHING):
        return _happened(now, Happening.RESTARTED, at_ms)
    if now.attempt >= MAX_ATTEMPTS:
        error = f"cannot apply it: the agent ended {MAX_ATTEMPTS} times while it tried"
        return replace(now, state=State.FAILED, steps=None, num_done=0, error=error)
    return replace(_happened(now, Happening.RESTARTED, at_ms), attempt=now.attempt + 1)


def reported(now: Convergence, running: Running, at_ms: int) -> Reported:
    """What the node says about itself."""
    phase: Phase = "switching" if now.state is State.RESTORING else now.state.value
    return Reported(
        rev=now.wish.rev,
        policies=now.wish.policies,
        phase=phase,
        progress=1.0 if now.state is State.CONFIRMED else now.num_done / len(now.steps) if now.steps else 0.0,
        within_ms=None if now.is_over else max(0, now.deadline_ms - at_ms),
        active=running.model,
        adapters=running.adapters,
        settings=running.settings,
        last_good=now.last_good.model,
        error=now.error,
    )


def _happened(now: Convergence, what: Happening, at_ms: int, error: str | None = None) -> Convergence:
    following = TABLE.get((now.state, what))
    if following is None:
        return now
    moved = replace(now, error=error) if error is not None else now
    if following is State.CONFIRMED:
        moved = replace(moved, last_good=now.wish, attempt=1)
    return _enter(moved, following, at_ms)


def _enter(now: Convergence, state: State, at_ms: int) -> Convergence:
    return replace(now, state=state, steps=None, num_done=0, deadline_ms=at_ms + LIMIT_MS.get(state, 0))
