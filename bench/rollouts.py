"""Ten thousand rollouts on random schedules, on a virtual clock: the rules of `fleet.rollout.step` hold in each.

`tests/unit/rollout_world.py` is the world and checks the rules; the test suite runs the first thousand of these.
"""

import sys
import time

from bench.report import Report
from tests.unit.rollout_world import World

NUM_SCHEDULES, NUM_QUICK = 10_000, 1_000
SAY_EVERY = 1_000


def run(report: Report, *, quick: bool) -> None:
    """Runs them one after the other; a schedule that breaks a rule is named."""
    num_schedules = NUM_QUICK if quick else NUM_SCHEDULES
    num_broken = num_steps = 0
    began_s = time.process_time()
    for seed in range(num_schedules):
        world = World(seed)
        try:
            world.run()
        except AssertionError as error:
            num_broken += 1
            print(f"seed {seed} breaks a rule: {error}", file=sys.stderr)
        num_steps += world.num_ticks
        if (seed + 1) % SAY_EVERY == 0:
            print(f"{seed + 1} schedules, {num_steps} steps", flush=True)
    report.add("rollout_schedules", "schedules that were run", "", [num_schedules], at_least=num_schedules)
    report.add("rollout_broken", "schedules in which a rule was broken", "", [num_broken], at_most=0)
    report.add("rollout_step_ms", "a step, mean", "ms", [(time.process_time() - began_s) * 1000 / num_steps])
