"""The releases of a node: one update for the default model, and one for each adapter. Pure.

A slot is kept here from the first release on that the node lacked; until then its model or adapter, and the settings
always, are `agent.convergence`'s. Updates are serial. An adapter waits for the model's update, since it is made for one
model.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from agent.desired import Present, Running, Wish
from agent.update import workflow
from agent.update.transitions import State
from agent.update.workflow import Goal, Update, Work
from contract.steering import Phase, Reported

MODEL = "model"
_ADAPTER = "adapter:"
# How bad an end is: the worst one is what the node reports.
_BADNESS: dict[Phase, int] = {"confirmed": 0, "idle": 1, "rolled_back": 2, "refused": 3, "failed": 4}


class Slots(Struct, frozen=True):
    """What is stored before it is acted on. `at_ms` is when: the clock goes on from there at the next start."""

    slots: dict[str, Update] = {}
    at_ms: int = 0

    def moved(self, name: str, update: Update) -> "Slots":
        """With one of them changed. An adapter that is wished for and active no more is gone."""
        is_gone = name != MODEL and update.state is State.CONFIRMED and update.active is None
        others = {slot: other for slot, other in self.slots.items() if slot != name}
        return replace(self, slots=others if is_gone else self.slots | {name: update})


def slot_of(adapter: str) -> str:
    """The slot of an adapter `name@version`."""
    return _ADAPTER + adapter.partition("@")[0]


def wished(now: Slots, wish: Wish, present: Present, running: Running, at_ms: int) -> Slots:
    """There is a wish: what the node lacks becomes a goal, and so does every wish for a slot that is kept here."""
    goals: dict[str, str | None] = {name: None for name in now.slots if name != MODEL}
    if MODEL in now.slots or (wish.model is not None and wish.model not in present.models):
        goals[MODEL] = wish.model
    for adapter in wish.adapters:
        if slot_of(adapter) in now.slots or adapter not in present.adapters:
            goals[slot_of(adapter)] = adapter
    for name, release in goals.items():
        update = now.slots.get(name) or _begin(name, running)
        now = now.moved(name, workflow.wished(update, Goal(wish.rev, release), at_ms))
    return now


def due(now: Slots, at_ms: int) -> tuple[str, Work] | None:
    """What is to be done now, and for which slot."""
    for name in sorted(now.slots, key=lambda name: name != MODEL):
        update = now.slots[name]
        if work := workflow.due(update, at_ms):
            return name, work
        if name == MODEL and not update.is_over:
            return None
    return None


def next_ms(now: Slots) -> int | None:
    """When time alone changes something."""
    times = [update.probation_ms for update in now.slots.values() if update.probation_ms is not None]
    for update in now.slots.values():
        if not update.is_over:
            times += [update.deadline_ms, update.not_before_ms]
    return min((time for time in times if time > now.at_ms), default=None)


def each(now: Slots, change: Callable[[Update], Update]) -> Slots:
    """With all of them changed."""
    for name, update in now.slots.items():
        now = now.moved(name, change(update))
    return now


def in_force(wish: Wish, now: Slots, fits: Callable[[str, str | None], bool]) -> Wish:
    """The wish with what serves in place of what is still to come, or has turned out bad.

    `fits` says whether an adapter is here and made for a model (None: the configured one). Of one whose release was
    made for another model, its last good one may fit.
    """
    model = now.slots[MODEL].serves if MODEL in now.slots else wish.model
    wanted = {slot_of(adapter): adapter for adapter in wish.adapters}
    adapters = []
    for name, adapter in (wanted | {name: "" for name in now.slots if name != MODEL and name not in wanted}).items():
        update = now.slots.get(name)
        if update is None:
            adapters.append(adapter)
        else:
            mine = [one for one in (update.serves, update.last_good) if one is not None and fits(one, model)]
            adapters += mine[:1]
    return replace(wish, model=model, adapters=adapters)


def reported(now: Slots, others: Reported, at_ms: int) -> Reported:
    """What the node says: of what is under way, or of the worst end there is; and why, of all of them."""
    last_good = now.slots[MODEL].last_good if MODEL in now.slots else others.last_good
    others = replace(others, last_good=last_good)
    under_way = next((update for update in now.slots.values() if not update.is_over), None)
    ends = [workflow.reported(update, others, at_ms) for update in now.slots.values() if update.is_over]
    if under_way is not None:
        said = workflow.reported(under_way, others, at_ms)
    elif others.phase not in _BADNESS:  # settings are under way
        said = others
    else:
        said = max([*ends, others], key=lambda end: _BADNESS[end.phase])
    reasons = dict.fromkeys(end.error for end in (said, *ends, others) if end.error)
    return replace(said, error="; ".join(reasons) or None)


def _begin(name: str, running: Running) -> Update:
    """A slot with what is active when its first release is wished for."""
    if name == MODEL:
        return Update(active=running.model, last_good=running.model)
    active = next((adapter for adapter in running.adapters if slot_of(adapter) == name), None)
    return Update(active=active, last_good=active)
