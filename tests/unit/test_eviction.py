"""Which adapters go when bytes are needed."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.eviction import Candidate, NotEnoughError, choose


def candidate(
    key: str, frees_bytes: int = 10, uses: float = 1.0, last_use_ms: int = 0, *, held: bool = False
) -> Candidate:
    """One of ten bytes, used once."""
    return Candidate(key, frees_bytes, uses, last_use_ms, held=held)


CROWDS = st.lists(
    st.builds(
        Candidate,
        key=st.text("abcdef", min_size=1, max_size=3),
        frees_bytes=st.integers(0, 50),
        uses=st.sampled_from([0.0, 0.5, 1.0, 2.0, 100.0]),
        last_use_ms=st.integers(0, 3),
        fetch_cost=st.sampled_from([1.0, 3.0]),
        held=st.booleans(),
        queue_place=st.one_of(st.none(), st.integers(0, 3)),
    ),
    max_size=8,
    unique_by=lambda one: one.key,
)


def test_what_is_used_least_goes_first() -> None:
    """And only as many go as are needed."""
    crowd = [candidate("often", uses=9), candidate("never", uses=0), candidate("seldom", uses=1)]
    assert choose(crowd, 20) == ["never", "seldom"]


def test_nothing_goes_when_nothing_is_needed() -> None:
    """Room that is there already is not made again."""
    assert choose([candidate("a")], 0) == []
    assert choose([candidate("a")], -5) == []


def test_uses_count_for_each_byte_and_by_what_fetching_costs() -> None:
    """A large one pays for its room with more uses; one that is hard to have again stays longer."""
    large, small = candidate("large", 50, uses=4), candidate("small", 10, uses=1)
    assert choose([small, large], 10) == ["large"]
    assert choose([small, replace(large, fetch_cost=2.0)], 10) == ["small"]


def test_what_waiting_requests_want_goes_last() -> None:
    """However popular the others are; of the wanted ones the one whose turn comes latest goes first."""
    soon = replace(candidate("soon", uses=0), queue_place=0)
    later = replace(candidate("later", uses=0), queue_place=7)
    crowd = [soon, candidate("popular", uses=99), later]
    assert choose(crowd, 10) == ["popular"]
    assert choose(crowd, 30) == ["popular", "later", "soon"]


def test_among_equals_the_one_used_longest_ago_goes() -> None:
    """And then the order of the keys decides, whatever order they came in."""
    crowd = [candidate("b", last_use_ms=5), candidate("a", last_use_ms=9), candidate("c", last_use_ms=5)]
    for order in itertools.permutations(crowd):
        assert choose(order, 30) == ["b", "c", "a"]


def test_no_small_one_goes_for_nothing() -> None:
    """When a larger one must go anyway and frees enough, those before it stay."""
    assert choose([candidate("small", 5, uses=0), candidate("large", 60, uses=99)], 60) == ["large"]


def test_the_most_valuable_is_spared_first() -> None:
    """When either of two could stay, it is the one that is used more."""
    crowd = [candidate("least", 3, uses=0), candidate("more", 3, uses=1), candidate("most", 4, uses=9)]
    assert choose(crowd, 7) == ["least", "most"]


def test_what_cannot_be_freed_is_refused_with_the_numbers() -> None:
    """How much is wanted, how much may go, how much is held."""
    crowd = [candidate("a", 10), candidate("pinned", 500, held=True)]
    with pytest.raises(NotEnoughError) as refused:
        choose(crowd, 11)
    assert str(refused.value) == (
        "cannot free 11 bytes: adapters of 10 bytes may go, 500 bytes are pinned or in use;"
        " unpinning some or a larger budget would do"
    )


@given(crowd=CROWDS, need=st.integers(-10, 300))
def test_enough_goes_or_none_and_none_for_nothing(crowd: list[Candidate], need: int) -> None:
    """The held stay; what goes is enough, and would not be without any one of them. A refusal is never wrong."""
    may_free = sum(one.frees_bytes for one in crowd if not one.held)
    try:
        gone = choose(crowd, need)
    except NotEnoughError:
        assert may_free < need
        return
    by_key = {one.key: one for one in crowd}
    freed = [by_key[key].frees_bytes for key in gone]
    assert len(set(gone)) == len(gone)
    assert not any(by_key[key].held for key in gone)
    assert sum(freed) >= need
    assert all(sum(freed) - one < need for one in freed)


@given(crowd=CROWDS, need=st.integers(1, 100), order=st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_says_nothing(crowd: list[Candidate], need: int, order: Random) -> None:
    """The same values choose the same ones, in the same order."""
    shuffled = order.sample(crowd, len(crowd))
    assert _outcome(shuffled, need) == _outcome(crowd, need)


def _outcome(crowd: list[Candidate], need: int) -> list[str] | str:
    try:
        return choose(crowd, need)
    except NotEnoughError as refused:
        return str(refused)


@given(
    crowd=CROWDS,
    need=st.integers(1, 100),
    number=st.integers(0, 7),
    uses=st.sampled_from([0.25, 1.0, 50.0]),
    wanted=st.booleans(),
)
def test_a_use_more_never_makes_an_adapter_go(
    crowd: list[Candidate], need: int, number: int, uses: float, wanted: bool
) -> None:
    """One that would stay also stays when it was used more and later, or when a request waits for it."""
    try:
        gone = choose(crowd, need)
    except NotEnoughError:
        return
    staying = [one for one in crowd if one.key not in gone]
    if not staying:
        return
    old = staying[number % len(staying)]
    new = replace(old, uses=old.uses + uses, last_use_ms=old.last_use_ms + 1)
    if wanted:
        new = replace(new, queue_place=0)
    assert new.key not in choose([new if one is old else one for one in crowd], need)
