"""How many threads compute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.threads import PERIOD_S, SLACK_CORES, Threads, num_threads


def test_an_idle_machine_uses_all() -> None:
    """What goes on beside it stays below the slack."""
    assert num_threads(4, 4, 4, 0) == 4
    assert num_threads(4, 4, 4, SLACK_CORES - 0.01) == 4


def test_a_busy_core_costs_a_thread() -> None:
    """One that others take, a thread leaves; several at once, several."""
    assert num_threads(2, 2, 2, 1) == 1
    assert num_threads(4, 4, 4, 1) == 3
    assert num_threads(4, 4, 4, 3) == 1


def test_threads_come_back_one_by_one() -> None:
    """When others stop, one more is tried at a time."""
    assert num_threads(4, 4, 1, 0) == 2
    assert num_threads(4, 4, 2, 0) == 3
    assert num_threads(4, 4, 4, 0) == 4


@given(st.integers(1, 16), st.data())
def test_the_number_is_always_possible_and_comes_to_rest(most: int, data: st.DataObject) -> None:
    """Between one and all; and under a steady load it does not go up and down for ever."""
    now = data.draw(st.integers(1, most))
    others = data.draw(st.floats(0, most))
    seen = []
    for _ in range(most + 2):
        now = num_threads(most, most, now, others)
        assert 1 <= now <= most
        seen.append(now)
    assert seen[-1] == seen[-2]


def test_one_thread_is_not_watched() -> None:
    """Where there is nothing to choose, nothing is read."""
    threads = Threads(1)
    assert [threads.choose(now) for now in (0.0, 10.0)] == [None, None]


def test_the_load_is_read_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' work since the last reading decides, and what went on before a pause does not."""
    busy = [0.0]
    monkeypatch.setattr("agent.engine.threads._busy_s", lambda _: busy[0])
    monkeypatch.setattr("agent.engine.threads._own_s", lambda: 0.0)
    threads = Threads(2)
    assert threads.choose(100.0) is None  # nothing to compare with
    busy[0] = 100 * PERIOD_S
    assert threads.choose(100.0 + PERIOD_S / 2) is None  # too early to look
    assert threads.choose(200.0) is None  # it was idle in between
    busy[0] += PERIOD_S
    assert threads.choose(200.0 + PERIOD_S) == 1
    assert threads.choose(200.0 + 2 * PERIOD_S) == 2
    assert threads.choose(200.0 + 3 * PERIOD_S) is None


def test_other_work_takes_the_cores_that_nobody_uses_first() -> None:
    """Of sixty-four cores thirty are busy: four threads have room."""
    assert num_threads(64, 4, 4, 30) == 4
    assert num_threads(64, 4, 4, 61.5) == 2
