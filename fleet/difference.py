"""What of a fleet is not as its file says, and what would make it so. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from contract.release import Kind
from contract.steering import Desired
from fleet.api.apply import Change, FleetFile, GroupFile
from fleet.api.rollouts import Terms
from fleet.api.steering import Group, WishChange
from fleet.errors import UsageError
from fleet.observing import name_of
from fleet.query import parse, text_of
from fleet.rollout.plan import Plan
from fleet.rollout.state import Phase


class Past(Struct, frozen=True):
    """A rollout that was begun at some time."""

    plan: Plan
    phase: Phase


class Fleet(Struct, frozen=True):
    """What is, as far as a file is about it. `members` are the nodes that fit each group of the file."""

    labels: Collection[str]
    groups: Mapping[str, Group]
    members: Mapping[str, Sequence[str]]
    wishes: Mapping[str, Desired]
    holds: Mapping[str, str]
    rollouts: Sequence[Past]  # the newest first


class Step(Struct, frozen=True, kw_only=True):
    """A change, and what makes it: one of the fields is given, or none when it waits."""

    change: Change
    query: str | None = None
    settings: dict[str, Any] | None = None
    wish: WishChange | None = None
    plan: Plan | None = None


def difference(file: FleetFile, fleet: Fleet) -> list[Step]:
    """What is to be done, in order: rollouts last, since they hold nodes.

    Raises:
        UsageError: a query cannot be read, or two groups want different things of one node.
    """
    _check_agree(file, fleet)
    steps = [step for name, group in sorted(file.groups.items()) for step in _of_group(name, group, fleet)]
    return sorted(steps, key=lambda step: step.plan is not None)


def _of_group(name: str, wanted: GroupFile, fleet: Fleet) -> Iterator[Step]:
    query, old, members = text_of(parse(wanted.query, fleet.labels)), fleet.groups.get(name), fleet.members[name]
    if old is None or old.query != query:
        was = f", was {old.query}" if old else ""
        yield Step(change=Change(group=name, what="group", text=f"{query}{was}", nodes=list(members)), query=query)
    if not isinstance(wanted.settings, UnsetType) and (old is None or old.settings != wanted.settings):
        text = f"{_text(wanted.settings)}, was {_text(old.settings if old else None)}"
        change = Change(group=name, what="policy", text=text, nodes=list(members))
        yield Step(change=change, settings=wanted.settings)
    if not isinstance(wanted.model, UnsetType):
        model = wanted.model
        lacking = [node for node in members if _wish(fleet, node).model != model]
        yield from _of_release(name, query, wanted.rollout, "model", model, lacking, fleet)
    if not isinstance(wanted.adapters, UnsetType):
        yield from _of_adapters(name, query, wanted, wanted.adapters, fleet)


def _of_adapters(name: str, query: str, group: GroupFile, wanted: tuple[str, ...], fleet: Fleet) -> Iterator[Step]:
    """With a rollout each new version comes in waves; what is in the list no more goes at once."""
    members, lists = fleet.members[name], {node: _wish(fleet, node).adapters for node in fleet.members[name]}
    if isinstance(group.rollout, UnsetType):
        lacking = [node for node in members if lists[node] != list(wanted)]
        yield from _at_once(name, "adapters", ", ".join(wanted) or "none", lacking, fleet, list(wanted))
        return
    for release in wanted:
        lacking = [node for node in members if release not in lists[node]]
        yield from _of_release(name, query, group.rollout, "adapter", release, lacking, fleet)
    names = set(map(name_of, wanted))
    kept: dict[tuple[str, ...], list[str]] = {}
    for node in members:
        left = tuple(one for one in lists[node] if name_of(one) in names)
        if len(left) < len(lists[node]):
            kept.setdefault(left, []).append(node)
    for left, nodes in sorted(kept.items()):
        yield from _at_once(name, "adapters", ", ".join(left) or "none", nodes, fleet, list(left))


def _of_release(
    name: str, query: str, terms: Terms | UnsetType, kind: Kind, release: str, lacking: list[str], fleet: Fleet
) -> Iterator[Step]:
    if isinstance(terms, UnsetType):
        yield from _at_once(name, "model", release, lacking, fleet, release)
        return
    last = next((one for one in fleet.rollouts if (one.plan.release, one.plan.targets) == (release, query)), None)
    waits = None
    if last is not None and last.phase not in (Phase.COMPLETED, Phase.ABORTED):
        waits = f"{last.plan.id} is {last.phase.value}"
    elif not lacking:
        return
    elif last is not None and last.phase is Phase.ABORTED:
        waits = (
            f"{last.plan.id} of it was aborted: name another version, or begin it anew with `fleet rollout start "
            f"{release}`"
        )
    change = Change(group=name, what="rollout", text=f"{kind} {release} in waves", nodes=lacking, waits=waits)
    yield Step(change=change, plan=None if waits else terms.plan(release, kind, query))


def _at_once(
    name: str, what: Any, text: str, nodes: list[str], fleet: Fleet, content: str | list[str]
) -> Iterator[Step]:
    """A wish for all of them, but for those that a rollout holds."""
    free = [node for node in nodes if node not in fleet.holds]
    if free:
        wish = WishChange(model=content) if isinstance(content, str) else WishChange(adapters=content)
        yield Step(change=Change(group=name, what=what, text=text, nodes=free), wish=wish)
    if held := [node for node in nodes if node in fleet.holds]:
        waits = f"held by {', '.join(sorted({fleet.holds[node] for node in held}))}"
        yield Step(change=Change(group=name, what=what, text=text, nodes=held, waits=waits))


def _check_agree(file: FleetFile, fleet: Fleet) -> None:
    """Two groups may have nodes in common, and then want the same of them."""
    for field in ("model", "adapters"):
        wanted: dict[str, tuple[str, Any]] = {}
        for name, group in sorted(file.groups.items()):
            value = getattr(group, field)
            for node in fleet.members[name] if value is not UNSET else ():
                other, theirs = wanted.setdefault(node, (name, value))
                if theirs != value:
                    raise UsageError(
                        f"cannot give {node} the {field} of both {other} and {name}: change one of the two queries"
                    )


def _wish(fleet: Fleet, node: str) -> Desired:
    return fleet.wishes.get(node) or Desired(node=node, rev=1, issued=0, exp=0)


def _text(settings: dict[str, Any] | None) -> str:
    return "nothing" if not settings else " ".join(
        f"{name}={msgspec.json.encode(value).decode()}" for name, value in sorted(settings.items())
    )  # fmt: skip
