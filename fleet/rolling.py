"""Making what a rollout wishes: models, or in the list of a node's adapters the one of a name."""

from collections.abc import Iterable

import structlog

from fleet.api.steering import WishChange
from fleet.errors import FleetError
from fleet.logs import describe
from fleet.observing import name_of
from fleet.rollout.plan import Plan
from fleet.rollout.step import Wish
from fleet.steering import Steering
from fleet.wishes import Wishes

log = structlog.get_logger()


def make(steering: Steering, wishes: Wishes, plan: Plan, wanted: Iterable[Wish]) -> str | None:
    """Makes wishes, those that are alike in one transaction.

    Returns:
        Why the release itself cannot be wished, when that is so. Of those that go back the next step tries again.
    """
    alike: dict[tuple[str | None, tuple[str, ...]], list[str]] = {}
    for wish in wanted:
        adapters = () if plan.kind == "model" else _adapters(wishes, plan, wish)
        alike.setdefault((wish.release, adapters), []).append(wish.node)
    refused = None
    for (release, adapters), nodes in alike.items():
        change = WishChange(model=release) if plan.kind == "model" else WishChange(adapters=list(adapters))
        try:
            steering.wish(nodes, change, f"rollout {plan.id}")
        except FleetError as error:
            log.error("cannot make a wish of a rollout", rollout=plan.id, release=release, **describe(error))
            refused = str(error) if release == plan.release else refused
    return refused


def _adapters(wishes: Wishes, plan: Plan, wish: Wish) -> tuple[str, ...]:
    """A node's adapters with the release in the place of the one of its name; without any when it is None."""
    held = wishes.held(wish.node)
    now = held.document.adapters if held else []
    place = next((n for n, one in enumerate(now) if name_of(one) == name_of(plan.release)), len(now))
    return (*now[:place], *((wish.release,) if wish.release else ()), *now[place + 1 :])
