"""A rollout as text: the verdict first."""

from typing import TYPE_CHECKING

from fleet.tables import age, date, print_table
from fleet.terminal import one_line, write

if TYPE_CHECKING:
    from fleet.api.rollouts import Forecast, NodeView, RolloutView

NUM_SHOWN = 20
OVER = ("completed", "aborted")


def verdict(found: "RolloutView") -> str:
    """One line, such as "r7 running: smol@2 to site=store-7, wave 2 of 3; 4 confirmed, 2 working"."""
    nodes = counted(found)
    where = f"wave {wave_of(found)}" if found.phase not in OVER else f"ended {date(found.ended_ms)}"
    return f"{found.id} {found.phase}: {found.plan.release} to {found.plan.targets}, {where}; {nodes}"


def wait(found: "RolloutView") -> str | None:
    """What a rollout that is not over waits for, and what can be done about it."""
    from fleet.rollout.state import Cause

    if found.wait is None or found.phase in OVER:
        return None
    names = ", ".join(found.wait.names[:NUM_SHOWN])
    more = f" and {len(found.wait.names) - NUM_SHOWN} more" if len(found.wait.names) > NUM_SHOWN else ""
    text = f"waits for {found.wait.cause.value}: {names}{more}"
    if found.pause is not None:
        text += f"\n  go on: fleet rollout resume {found.id} {found.pause.number}"
    elif found.until_ms is not None:
        text += f", at {date(found.until_ms)}"
    elif found.wait.cause is Cause.APPROVAL:
        text += f"\n  go on: fleet rollout approve {found.id} {found.wave}"
    return text


def show(found: "RolloutView") -> None:
    """The verdict, what it waits for, and why it ended."""
    write(verdict(found))
    if text := wait(found):
        write(text)
    for reason in found.reasons:
        write(f"because {one_line(reason)}")
    if found.left:
        write(f"ended without {', '.join(found.left[:NUM_SHOWN])}{' …' if len(found.left) > NUM_SHOWN else ''}")


def show_nodes(nodes: "list[NodeView]") -> None:
    """How far nodes are, and what they say of it."""
    rows = [(one.node, str(one.wave), _outcome(one), one.state, one.phase or "-", one.error or "") for one in nodes]
    if rows:
        print_table(("node", "wave", "outcome", "state", "phase", "why"), rows, right=("wave",))


def progress(nodes: "list[NodeView]") -> str:
    """How far those are that are on their way, such as "  demo-1 fetching 30 %"; nothing when none is."""
    texts = [f"{one.node} {one.phase or '-'} {one.progress:.0%}" for one in nodes if one.outcome is None]
    more = f" and {len(texts) - NUM_SHOWN} more" if len(texts) > NUM_SHOWN else ""
    return f"  {', '.join(texts[:NUM_SHOWN])}{more}" if texts else ""


def _outcome(node: "NodeView") -> str:
    if node.outcome is None:
        return "going back" if node.is_back else "working"
    return "back" if node.is_back and node.outcome == "confirmed" else node.outcome


def show_forecast(found: "Forecast") -> None:
    """Who would get it in which wave."""
    plan, num_nodes = found.plan, sum(map(len, found.waves))
    write(f"{plan.release} to {plan.targets}: {num_nodes} nodes in {len(found.waves)} waves")
    if found.num_there:
        write(f"{found.num_there} nodes have it already")
    for number, names in enumerate(found.waves, 1):
        marked = [f"{name} (away)" if name in found.away else name for name in names[:NUM_SHOWN]]
        more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
        write(f"wave {number}: {', '.join(marked)}{more}")
    for name, rollout in sorted(found.held.items())[:NUM_SHOWN]:
        write(f"{name} is held by {rollout} and comes when that is over")
    write(f"soak {age(plan.soak_ms / 1000)} after each; nothing was done")


def wave_of(found: "RolloutView") -> str:
    """Its wave, and how many there are."""
    return f"{found.wave}" if found.num_waves is None else f"{found.wave} of {found.num_waves}"


def counted(found: "RolloutView") -> str:
    """Its nodes by how far they are."""
    return ", ".join(f"{count} {name}" for name, count in found.counts.items() if count) or "no nodes"
