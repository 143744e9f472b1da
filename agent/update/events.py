"""What an operator hears of updates. Pure."""

from collections.abc import Iterator
from typing import Any

from agent.update.slots import Slots
from agent.update.transitions import State
from agent.update.workflow import Update


def events_between(before: Slots, now: Slots) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of the events that lie between."""
    for slot, update in now.slots.items():
        last = before.slots.get(slot, Update())
        if name := _event(last, update):
            told = {"slot": slot, "release": update.goal.release, "from": last.active, "reason": update.error}
            yield name, {key: value for key, value in told.items() if value is not None}


def _event(last: Update, update: Update) -> str | None:
    if update.state is last.state and update.goal.release == last.goal.release:
        return None
    match update.state:
        case State.CHECKING:
            return "update_started"
        case State.CONFIRMED if last.state is State.SWITCHING:
            return "update_confirmed"
        case State.REFUSED:
            return "update_rejected" if update.gate is not None else "update_refused"
        case State.FAILED:
            return "update_failed"
        case State.ROLLED_BACK:
            return "update_rolled_back"
    return None
