"""Rollouts on random schedules: whatever happens, the rules of `fleet.rollout.step` hold.

A thousand here; `python -m bench rollouts` runs ten thousand, of which these are the first, in about a minute.
"""

import pytest

from tests.unit.rollout_world import World

NUM_SEEDS = 1_000
AT_ONCE = 250  # schedules in one test, so that none takes long


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, AT_ONCE))
def test_a_rollout_keeps_its_rules_whatever_happens(first: int) -> None:
    """Nodes fail, go away, come late and lie; the controller dies between any two things; operators interfere.

    Never are more nodes unavailable than may be, none has two targets, after the threshold no further one is given the
    release, and in the end the rollout is over or names what it waits for.
    """
    for seed in range(first, first + AT_ONCE):
        World(seed).run()
