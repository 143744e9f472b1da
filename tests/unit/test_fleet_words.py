"""What commands make of words, and words of what they got."""

from typing import Any

import pytest
from msgspec.structs import replace

from fleet.api.summary import Summary
from fleet.commands.status import is_well, verdict
from fleet.commands.steering import read_settings
from fleet.errors import UsageError
from fleet.fields import Record
from fleet.web.nodes import in_order

WELL = Summary(
    at_ms=10_000, heard_ms=9000, num_nodes=2, states={"online": 2}, num_never_came=0, never_came=[], num_unwell=0,
    worst=[], num_gaps=0, num_bad_messages=0, broker_down_s=None, is_stored=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "well", "words"),
    [
        ({}, True, "well: 2 nodes, 2 online"),
        ({"num_nodes": 0, "states": {}}, True, "no nodes yet"),
        ({"num_unwell": 1, "states": {"online": 1, "lost": 1}}, False, "not well: 1 of 2 nodes"),
        ({"num_never_came": 3}, False, "3 enrolled and never came"),
        ({"broker_down_s": 130.0}, False, "blind: no connection to the broker for 2 min"),
        ({"is_stored": False}, False, "the database does not take what comes"),
    ],
)
def test_the_verdict_comes_first(change: dict[str, Any], well: bool, words: str) -> None:
    """Without a broker all else is old, so that is said before it."""
    summary = replace(WELL, **change)
    assert is_well(summary) is well
    assert words in verdict(summary)


def test_settings_are_json_where_they_can_be() -> None:
    """Numbers are numbers, words are words, nothing unsets."""
    found = read_settings(["a=7", "b=debug", "c=", "d=[1]", "e=true", 'f="7"', "g=x=y"])
    assert found == {"a": 7, "b": "debug", "c": None, "d": [1], "e": True, "f": "7", "g": "x=y"}
    assert read_settings(None) == {}


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a=1", "a=2"]])
def test_what_is_no_setting_is_refused(words: list[str]) -> None:
    """Above all a key that comes twice: which one counts?"""
    with pytest.raises(UsageError):
        read_settings(words)


def test_nodes_are_ordered_by_a_field_and_the_unknown_come_last() -> None:
    """In both directions; equal ones by name."""
    nodes = [Record(node=name, state="online", ram_mib=ram) for name, ram in zip("dbca", (2, None, 1, 2), strict=True)]
    assert [one.node for one in in_order(nodes, "ram_mib", 0)] == ["c", "a", "d", "b"]
    assert [one.node for one in in_order(nodes, "-ram_mib", 0)] == ["a", "d", "c", "b"]
    with pytest.raises(UsageError, match="cannot sort by 'wings'"):
        in_order(nodes, "wings", 0)
