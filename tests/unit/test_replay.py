"""Replays of requests: what is counted, the optimum, and that the agent's policy is worth having."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.replay import Policy, belady, lfu, lru, ours, replay, requests


def test_requests_follow_zipfs_law_and_the_seed() -> None:
    """The most popular of a thousand gets one request in 7.5, the next half of that; a seed gives the same again."""
    asked = requests(1_000, 100_000, 1.0, seed=3)
    first, second = sorted((asked.count(number) for number in range(1_000)), reverse=True)[:2]
    assert first / 100_000 == pytest.approx(1 / 7.485, rel=0.05)
    assert second / first == pytest.approx(1 / 2, rel=0.05)
    assert asked == requests(1_000, 100_000, 1.0, seed=3)


def test_a_shift_deals_popularity_anew() -> None:
    """The favourite of one part is another adapter in the next, and all parts are as long."""
    asked = requests(1_000, 4_000, 1.2, seed=1, shifts=3)
    parts = [asked[begin : begin + 1_000] for begin in range(0, 4_000, 1_000)]
    assert len(asked) == 4_000
    assert len({max(set(part), key=part.count) for part in parts}) == 4


def test_lru_and_lfu_by_hand() -> None:
    """Two places; the third adapter puts out the one used longest ago, or the one used least."""
    asked = [0, 0, 1, 2, 0, 1]
    assert replay(asked, [1, 1, 1], 2, lru, 0).hit_ratio == 1 / 6  # 2 puts out 0, which puts out 1
    assert replay(asked, [1, 1, 1], 2, lfu, 0).hit_ratio == 2 / 6  # 2 puts out 1


def test_the_queue_is_what_comes_next() -> None:
    """The agent's policy keeps what waits, though it was used least."""
    asked = [0, 0, 1, 2, 1]
    assert replay(asked, [1, 1, 1], 2, ours, 0).hit_ratio == 1 / 5
    assert replay(asked, [1, 1, 1], 2, ours, 1).hit_ratio == 2 / 5


@given(asked=st.lists(st.integers(0, 4), min_size=1, max_size=10), num_places=st.integers(1, 4))
def test_belady_is_the_optimum(asked: list[int], num_places: int) -> None:
    """No sequence of evictions has more hits: all are tried."""

    @cache
    def most_hits(turn: int, resident: frozenset[int]) -> int:
        if turn == len(asked):
            return 0
        if asked[turn] in resident:
            return 1 + most_hits(turn + 1, resident)
        if len(resident) < num_places:
            return most_hits(turn + 1, resident | {asked[turn]})
        return max(most_hits(turn + 1, resident - {one} | {asked[turn]}) for one in resident)

    assert belady(asked, num_places) == most_hits(0, frozenset()) / len(asked)


@given(
    asked=st.lists(st.integers(0, 5), max_size=30).map(lambda some: [*some, 0]),
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    policy=st.sampled_from([lru, lfu, ours]),
    num_waiting=st.integers(0, 4),
)
def test_the_budget_is_kept(asked: list[int], sizes: Sequence[int], policy: Policy, num_waiting: int) -> None:
    """At every moment, whatever the sizes; no run has hits where an adapter comes for the first time."""
    outcome = replay(asked, sizes, 10, policy, num_waiting)
    assert outcome.peak_bytes <= 10
    assert round(outcome.hit_ratio * len(asked)) <= len(asked) - len(set(asked))


def test_the_policy_beats_lru_and_with_a_full_queue_nears_the_optimum() -> None:
    """A thousand adapters, room for twenty, Zipf's law; also when popularity shifts."""
    steady = requests(1_000, 5_000, 1.0, seed=7)
    sizes = [1] * 1_000
    least_recent = replay(steady, sizes, 20, lru, 0).hit_ratio
    assert replay(steady, sizes, 20, ours, 0).hit_ratio > 1.3 * least_recent
    assert replay(steady, sizes, 20, ours, 64).hit_ratio > 0.95 * belady(steady, 20)
    shifting = requests(1_000, 10_000, 1.0, seed=7, shifts=4)
    assert replay(shifting, sizes, 20, ours, 0).hit_ratio > 1.05 * replay(shifting, sizes, 20, lfu, 0).hit_ratio
