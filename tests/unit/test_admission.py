"""What a node cannot have is refused before the first byte, with what would do; and the collector makes room."""

from typing import Any

import pytest
from msgspec.structs import replace

from agent import machine
from agent.store.database import RESERVE_BYTES
from agent.update.admission import Room, obstacle
from agent.update.collector import Stored, choose
from tests.fakes.releases import release_of

ROOM = Room(
    disk_bytes=1 + RESERVE_BYTES, memory_bytes=100 << 20, base_sha256="a" * 64, architecture="llama",
    machine="aarch64", features=frozenset({"asimd", "asimddp"}),
)  # fmt: skip
ADAPTER: dict[str, Any] = {"kind": "adapter", "base_sha256": "a" * 64}


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"memory_bytes": 100 << 20}, "model"),
        (ADAPTER, "adapter"),
        ({"requires": {"architecture": "qwen2", "machines": ["x86_64", "aarch64"], "features": ["asimddp"]}}, "model"),
        (ADAPTER | {"requires": {"architecture": "llama"}}, "adapter"),
    ],
)
def test_what_fits_is_admitted(facts: dict[str, Any], kind: str) -> None:
    """Also to the last byte."""
    assert obstacle(release_of(**facts), kind, ROOM) is None


@pytest.mark.parametrize(
    ("facts", "kind", "room", "why"),
    [
        ({}, "adapter", {}, "cannot use m@1 as an adapter: it is a model"),
        (ADAPTER, "model", {}, "cannot use m@1 as a model: it is an adapter"),
        (ADAPTER, "adapter", {"base_sha256": "b" * 64}, "wish for its model first"),
        (ADAPTER, "adapter", {"base_sha256": None}, "this node's default model is missing"),
        ({}, "model", {"disk_bytes": RESERVE_BYTES}, f"and {RESERVE_BYTES} are or could be; free some space"),
        ({"memory_bytes": 101 << 20}, "model", {}, "it takes 101 MiB of memory, and engines of this node have 100"),
        ({"requires": {"machines": ["x86_64"]}}, "model", {}, "of the kind x86_64, and this one is aarch64"),
        ({"requires": {"features": ["sve", "asimd"]}}, "model", {}, "it needs a processor with sve;"),
        ({"requires": {"architecture": "clip"}}, "model", {}, "its architecture is clip: it reads pictures"),
        ({"requires": {"architecture": "bert"}}, "model", {}, "bert make embeddings"),
        (ADAPTER | {"requires": {"architecture": "qwen2"}}, "adapter", {}, "architecture qwen2, not llama"),
    ],
)  # fmt: skip
def test_what_does_not_is_refused_with_the_numbers(
    facts: dict[str, Any], kind: str, room: dict[str, Any], why: str
) -> None:
    """The whole message is for who can do something about it."""
    said = obstacle(release_of(**facts), kind, replace(ROOM, **room))
    assert said is not None
    assert said.startswith("cannot ")
    assert why in said


def test_the_oldest_that_may_go_make_room() -> None:
    """No more of them than needed, and never what is held; all that may when that is not enough."""
    files = [Stored("a@1", 5, held=False), Stored("b@1", 9, held=True), Stored("c@1", 5, held=False)]
    assert choose(files, 0) == []
    assert choose(files, 5) == ["a@1"]
    assert choose(files, 6) == choose(files, 99) == ["a@1", "c@1"]


def test_this_machine_has_features() -> None:
    """As its kernel says."""
    assert machine.features()
