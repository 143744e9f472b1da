"""How far a rollout is: what is stored before it is acted on."""

from enum import Enum

from msgspec import Struct

from fleet.rollout.observation import Metrics


class Phase(Enum):
    """Where a rollout is. The last two are ends."""

    RUNNING = "running"
    PAUSED = "paused"  # nodes that have begun go on; whether too many fail is still watched
    CALLING_BACK = "calling back"  # aborted; nodes go back to what they had
    COMPLETED = "completed"
    ABORTED = "aborted"


class Outcome(Enum):
    """How it ended for a node. One that is away has none: it is no failure."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"  # it cannot have it
    REJECTED = "rejected"  # its gate says that it is bad
    FAILED = "failed"


class Node(Struct, frozen=True, kw_only=True):
    """A node that was given a target. Without an outcome it is in flight, and counts as unavailable."""

    wave: int
    target: str | None
    before: str | None  # what was wished of it until then
    stratum: str
    is_back: bool = False  # its target is what it had before
    outcome: Outcome | None = None
    ended_ms: int | None = None  # since when it has this outcome
    error: str | None = None  # what it said when it could not have the release; stays when it goes back
    here_ms: int | None = None  # since when it has been there without a break, with this target; None while it is away
    baseline: Metrics | None = None  # how it answered before


class Cause(Enum):
    """What a rollout can wait for."""

    NODES = "nodes that have begun"
    AWAY = "nodes that are away, held by another rollout, or overdue"
    MEMBERS = "a node that fits its query"
    SOAK = "the end of the soak"
    APPROVAL = "approval"
    WINDOW = "a window"
    RESUME = "somebody to acknowledge its pause"


class Wait(Struct, frozen=True):
    """Why nothing more happens now, with the names of nodes or what else there is to name."""

    cause: Cause
    names: tuple[str, ...] = ()


class Pause(Struct, frozen=True, kw_only=True):
    """Why it stands still. Its number must be named to go on, so nobody resumes what they have not read."""

    number: int
    reason: str
    is_own: bool  # the rollout itself stopped, since a wave was not good enough


class State(Struct, frozen=True, kw_only=True):
    """A rollout in progress."""

    phase: Phase = Phase.RUNNING
    wave: int = 0
    nodes: dict[str, Node] = {}
    settled_ms: int | None = None  # since when there is nothing left to do in this wave but wait
    approved: tuple[int, ...] = ()
    pause: Pause | None = None
    num_pauses: int = 0
    excused_wave: int | None = None  # somebody resumed although it was not good enough
    reverts: bool = False  # while calling back: also nodes that have the release and are well
    reasons: tuple[str, ...] = ()  # for the abort
    left: tuple[str, ...] = ()  # nodes that it ended without
    wait: Wait | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen any more."""
        return self.phase in (Phase.COMPLETED, Phase.ABORTED)
