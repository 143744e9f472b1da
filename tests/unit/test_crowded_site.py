"""The simulation that the router's benchmark stands on."""

import pytest

from bench.crowded_site import POLICIES, WINDOW_S, Device, arrivals, simulate


def test_the_same_seed_is_the_same_run() -> None:
    """Of arrivals and of policies that choose by chance."""
    asked = arrivals(7, 500, 1.0, bursty=True)
    assert asked == arrivals(7, 500, 1.0, bursty=True)
    assert asked != arrivals(8, 500, 1.0, bursty=True)
    for policy in POLICIES.values():
        assert simulate(asked, policy, 3) == simulate(asked, policy, 3)


def test_bursts_come_and_the_mean_stays() -> None:
    """Of bursty arrivals about half come within a tenth of the time."""
    asked = arrivals(1, 20_000, 1.0, bursty=True)
    in_bursts = sum(one.at_s % 100 < 10 for one in asked)
    assert in_bursts / len(asked) == pytest.approx(10 / 19, abs=0.03)
    assert asked[-1].at_s == pytest.approx(20_000, rel=0.05)


def test_a_device_takes_no_more_than_it_can_do_in_a_window() -> None:
    """And has room again as the window slides on."""
    device = Device("n", 100.0, 10.0)
    device.take(WINDOW_S - 10, 0.0)
    assert device.has_room(10, 1.0)
    assert not device.has_room(10.1, 1.0)
    assert device.has_room(WINDOW_S, WINDOW_S)


def test_looking_at_load_sends_at_least_a_third_less_to_the_cloud_than_chance() -> None:
    """In bursts, for each of some seeds; and every token of a request is counted at one place."""
    for seed in range(3):
        asked = arrivals(seed, 2_000, 1.2, bursty=True)
        outcomes = {name: simulate(asked, policy, seed) for name, policy in POLICIES.items()}
        assert outcomes["loadaware"].cloud_tokens <= 0.7 * outcomes["random"].cloud_tokens
        assert {one.total_tokens for one in outcomes.values()} == {sum(one.tokens for one in asked)}
        assert all(len(one.latencies_ms) == len(asked) for one in outcomes.values())
