"""What operators tell a rollout that runs. Pure; the same order twice is one.

An order only changes the state; what follows from it is up to the next step.
"""

from msgspec.structs import replace

from fleet.errors import ConflictError
from fleet.rollout.state import Pause, Phase, State


def pause(state: State, reason: str) -> State:
    """Gives no further node the release. One that is paused already stays so, for the reason that it has.

    Raises:
        ConflictError: it is over, or being aborted.
    """
    _check_goes_on(state, "pause")
    return state if state.pause else paused(state, reason, is_own=False)


def paused(state: State, reason: str, *, is_own: bool) -> State:
    """The state after a pause began."""
    number = state.num_pauses + 1
    return replace(
        state,
        phase=Phase.PAUSED,
        pause=Pause(number=number, reason=reason, is_own=is_own),
        num_pauses=number,
        wait=None,
    )


def resume(state: State, number: int) -> State:
    """Goes on after the pause of this number, which says that its reason was read.

    When the rollout stopped by itself, its wave is judged no more: who resumes has decided.

    Raises:
        ConflictError: it is over or being aborted, or is paused for another reason than the one that was read.
    """
    _check_goes_on(state, "resume")
    if state.pause is None and number == state.num_pauses > 0:
        return state
    if state.pause is None or state.pause.number != number:
        there = f"pause {state.pause.number}: {state.pause.reason}" if state.pause else "no pause"
        raise ConflictError(f"cannot acknowledge pause {number}: there is {there}")
    excused = state.wave if state.pause.is_own else state.excused_wave
    return replace(state, phase=Phase.RUNNING, pause=None, excused_wave=excused)


def approve(state: State, wave: int) -> State:
    """Lets a wave begin that waits for it, or will.

    Raises:
        ConflictError: it is over, or being aborted.
    """
    _check_goes_on(state, "approve")
    return state if wave in state.approved else replace(state, approved=(*state.approved, wave))


def abort(state: State, reason: str, *, reverts: bool) -> State:
    """Ends it: nodes that do not have the release yet go back, with `reverts` also those that do.

    One that is being aborted already can still be told to revert, but never to stop reverting.

    Raises:
        ConflictError: it is over.
    """
    if state.is_over:
        raise ConflictError(f"cannot abort it: it is {state.phase.value}")
    if state.phase is not Phase.CALLING_BACK:
        return called_back(state, (reason,), reverts=reverts)
    return replace(state, reverts=True, settled_ms=None) if reverts and not state.reverts else state


def called_back(state: State, reasons: tuple[str, ...], *, reverts: bool) -> State:
    """The state after an abort began."""
    return replace(
        state, phase=Phase.CALLING_BACK, reverts=reverts, reasons=reasons, pause=None, settled_ms=None, wait=None
    )


def _check_goes_on(state: State, what: str) -> None:
    if state.is_over or state.phase is Phase.CALLING_BACK:
        raise ConflictError(f"cannot {what} it: it is {state.phase.value}")
