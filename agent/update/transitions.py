"""The states of an update, what can happen in each and how long it may last: the table of `agent.update.workflow`."""

from enum import Enum

MINUTE_MS, HOUR_MS = 60_000, 3_600_000


class State(Enum):
    """Where a node is with its release. The values are those of `contract.steering.Phase`, but for `RESTORING`."""

    IDLE = "idle"
    CHECKING = "checking"
    ADMITTING = "admitting"
    FETCHING = "fetching"
    ASSEMBLING = "assembling"
    GATING = "gating"
    SWITCHING = "switching"
    RESTORING = "restoring"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    FAILED = "failed"


class Happening(Enum):
    """What can happen to it."""

    WISHED = "wished"
    HAS_IT = "has_it"  # what is wished is active already
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    TROUBLED = "troubled"  # and there are attempts left
    TOO_LATE = "too_late"
    CANCELLED = "cancelled"
    RESTARTED = "restarted"  # likewise
    CRASHED = "crashed"  # the release that serves did, too often, on probation


# Every state, and what it becomes. A dot: nothing changes, since the news is nobody's any more, or must wait.
_TABLE = """
state       wished   has_it    done        refused   failed    troubled   too_late  cancelled restarted   crashed
idle        checking confirmed .           .         .         .          .         .         .           restoring
checking    checking confirmed admitting   refused   failed    checking   failed    idle      checking    restoring
admitting   checking confirmed fetching    refused   failed    admitting  failed    idle      admitting   restoring
fetching    checking confirmed assembling  refused   failed    fetching   failed    idle      fetching    restoring
assembling  checking confirmed gating      refused   failed    assembling failed    idle      assembling  restoring
gating      checking confirmed switching   refused   failed    gating     failed    idle      gating      restoring
switching   .        .         confirmed   restoring restoring switching  restoring .         switching   .
restoring   .        .         rolled_back failed    failed    restoring  failed    .         rolled_back .
confirmed   checking confirmed .           .         .         .          .         .         .           restoring
rolled_back checking confirmed .           .         .         .          .         .         .           .
refused     checking confirmed .           .         .         .          .         .         .           restoring
failed      checking confirmed .           .         .         .          .         .         .           restoring
"""


def _read(text: str) -> dict[tuple[State, Happening], State]:
    header, *lines = (line.split() for line in text.strip().splitlines())
    return {
        (State(state), Happening(what)): State(following)
        for state, *cells in lines
        for what, following in zip(header[1:], cells, strict=True)
        if following != "."
    }


TABLE = _read(_TABLE)
WAY = (State.CHECKING, State.ADMITTING, State.FETCHING, State.ASSEMBLING, State.GATING, State.SWITCHING)
EXCHANGING = (State.SWITCHING, State.RESTORING)
LIMIT_MS = {  # with all attempts and the time between them
    State.CHECKING: HOUR_MS,
    State.ADMITTING: 10 * MINUTE_MS,
    State.FETCHING: 7 * 24 * HOUR_MS,  # windows and byte budgets may leave an hour a day
    State.ASSEMBLING: HOUR_MS,
    State.GATING: HOUR_MS,
    State.SWITCHING: 10 * MINUTE_MS,
    State.RESTORING: 10 * MINUTE_MS,
}
