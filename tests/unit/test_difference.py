"""What of a fleet is not as its file says."""

from typing import Any

import msgspec
import pytest

from contract.steering import Desired
from fleet.api.apply import FleetFile
from fleet.api.rollouts import Terms
from fleet.api.steering import Group
from fleet.difference import Fleet, Past, Step, difference
from fleet.errors import UsageError
from fleet.rollout.state import Phase

FILE = b"""
[groups.stores]
query = "site~store-"
model = "smol@2"
adapters = ["tone@2", "home@1"]
settings = { "limits.queue" = 64 }

[groups.stores.rollout]
waves = ["1", "100%"]
soak_s = 60
"""
QUERY = "site~store-"
NODES = ["n1", "n2"]


def file_of(text: bytes = FILE) -> FleetFile:
    """What a file says."""
    return msgspec.toml.decode(text, type=FleetFile)


def wish(node: str, model: str | None = "smol@2", adapters: tuple[str, ...] = ("tone@2", "home@1")) -> Desired:
    """A node's document; by default as the file says."""
    return Desired(node=node, rev=1, issued=0, exp=0, model=model, adapters=list(adapters))


def fleet_of(*wishes: Desired, **changes: Any) -> Fleet:
    """A fleet that is as the file says, but for what is given."""
    group = Group("stores", QUERY, 1, {"limits.queue": 64}, 2)
    as_said = {one.node: one for one in (wish("n1"), wish("n2"), *wishes)}
    fleet = Fleet(
        labels=(), groups={"stores": group}, members={"stores": NODES}, wishes=as_said, holds={}, rollouts=[]
    )  # fmt: skip
    return msgspec.structs.replace(fleet, **changes)


def texts(steps: list[Step]) -> list[tuple[str, str, list[str], str | None]]:
    """What is said of each change."""
    return [(one.change.what, one.change.text, one.change.nodes, one.change.waits) for one in steps]


def past(phase: Phase, release: str = "smol@2") -> Past:
    """A rollout of the file's model."""
    return Past(msgspec.structs.replace(Terms().plan(release, "model", QUERY), id="r1"), phase)


def test_a_fleet_that_is_as_its_file_says_has_no_difference() -> None:
    """So applying it twice is applying it once."""
    assert difference(file_of(), fleet_of()) == []


def test_everything_is_new_to_a_fleet_without_groups() -> None:
    """First the group, then its policy, then a rollout for each release, on the file's terms."""
    empty = [Desired(node=node, rev=1, issued=0, exp=0) for node in NODES]
    steps = difference(file_of(), fleet_of(*empty, groups={}))
    assert texts(steps) == [
        ("group", QUERY, NODES, None),
        ("policy", "limits.queue=64, was nothing", NODES, None),
        ("rollout", "model smol@2 in waves", NODES, None),
        ("rollout", "adapter tone@2 in waves", NODES, None),
        ("rollout", "adapter home@1 in waves", NODES, None),
    ]
    plan = steps[2].plan
    assert plan is not None
    assert (plan.release, plan.targets, plan.soak_ms) == ("smol@2", QUERY, 60_000)


def test_without_terms_a_release_is_wished_at_once() -> None:
    """Of those that lack it; a node that a rollout holds waits."""
    file = file_of(FILE[: FILE.index(b"[groups.stores.rollout]")])
    steps = difference(file, fleet_of(wish("n1", "smol@1"), wish("n2", "smol@1", ("tone@1",)), holds={"n2": "r7"}))
    assert texts(steps) == [
        ("model", "smol@2", ["n1"], None),
        ("model", "smol@2", ["n2"], "held by r7"),
        ("adapters", "tone@2, home@1", ["n2"], "held by r7"),
    ]
    assert steps[0].wish is not None
    assert steps[0].wish.model == "smol@2"


def test_what_is_in_the_list_no_more_goes_before_rollouts_hold_the_nodes() -> None:
    """The other adapters stay until their waves come."""
    steps = difference(file_of(), fleet_of(wish("n1", adapters=("tone@1", "old@1", "home@1"))))
    assert texts(steps) == [
        ("adapters", "tone@1, home@1", ["n1"], None),
        ("rollout", "adapter tone@2 in waves", ["n1"], None),
    ]


@pytest.mark.parametrize(
    ("phase", "lacking", "waits"),
    [
        (Phase.RUNNING, [], "r1 is running"),
        (Phase.PAUSED, ["n1"], "r1 is paused"),
        (Phase.ABORTED, ["n1"], "r1 of it was aborted: name another version"),
    ],
)
def test_a_rollout_is_not_begun_twice(phase: Phase, lacking: list[str], waits: str) -> None:
    """Not while it runs, and not by itself when it was bad; of another release there may have been any."""
    fleet = fleet_of(*(wish(node, "smol@1") for node in lacking), rollouts=[past(phase)])
    [step] = difference(file_of(), fleet)
    assert step.plan is None
    assert (step.change.waits or "").startswith(waits)
    fleet = msgspec.structs.replace(fleet, rollouts=[past(phase, "smol@3")])
    assert [one.plan is not None for one in difference(file_of(), fleet)] == [True] * len(lacking)


def test_who_came_after_a_rollout_gets_one_too() -> None:
    """A completed one is no reason to leave a new node as it is."""
    [step] = difference(file_of(), fleet_of(wish("n2", None), rollouts=[past(Phase.COMPLETED)]))
    assert step.plan is not None
    assert step.change.nodes == ["n2"]


def test_two_groups_agree_about_a_node() -> None:
    """Else neither would ever be as the file says."""
    file = file_of(FILE + b'\n[groups.kitchens]\nquery = "node=n1"\nmodel = "smol@3"\n')
    with pytest.raises(UsageError, match="cannot give n1 the model of both kitchens and stores"):
        difference(file, fleet_of(members={"stores": NODES, "kitchens": ["n1"]}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[groups.stores]\n", "missing required field `query`"),
        (b'[groups.stores]\nquery = "online"\nmodle = "smol@2"\n', "unknown field `modle`"),
        (b'[groups.stores]\nquery = "online"\nmodel = "smol"\n', "matching regex"),
        (b'[groups."a b"]\nquery = "online"\n', "matching regex"),
    ],
)
def test_a_slip_in_a_file_is_found(text: bytes, why: str) -> None:
    """With its place."""
    with pytest.raises(msgspec.ValidationError, match=why):
        file_of(text)
