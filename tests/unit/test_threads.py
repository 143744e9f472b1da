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


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What all processes have worked, in seconds; this one does nothing."""
    busy = [0.0]
    monkeypatch.setattr("agent.engine.threads._busy_s", lambda _: busy[0])
    monkeypatch.setattr("agent.engine.threads._own_s", lambda: 0.0)
    return busy


def test_the_load_of_the_last_period_decides(load: list[float]) -> None:
    """A core that others use costs a thread, and gives it back."""
    threads = Threads(2)
    assert threads.choose(100.0) is None  # nothing to compare with
    load[0] = PERIOD_S
    assert threads.choose(100.0 + PERIOD_S / 2) is None  # too early to tell
    assert threads.choose(100.0 + PERIOD_S) == 1
    assert threads.choose(100.0 + 2 * PERIOD_S) == 2
    assert threads.choose(100.0 + 3 * PERIOD_S) is None


def test_what_others_do_while_the_engine_rests_does_not_count(load: list[float]) -> None:
    """They may be gone when it works again."""
    threads = Threads(2)
    threads.choose(100.0)
    threads.rest(100.0)
    load[0] += 50.0
    assert threads.choose(150.0) is None
    assert threads.choose(150.0 + PERIOD_S) is None


def test_short_stretches_of_work_add_up(load: list[float]) -> None:
    """A node that never works for a whole period at a time sees the busy core, too."""
    threads = Threads(2)
    changes = []
    for number in range(5):
        changes.append(threads.choose(100.0 + number))
        load[0] += PERIOD_S / 4
        threads.rest(100.0 + number + PERIOD_S / 4)
        load[0] += 0.1
    changes.append(threads.choose(200.0))
    load[0] += PERIOD_S / 4
    changes.append(threads.choose(200.0 + PERIOD_S / 4))
    assert [change for change in changes if change] == [1]


def test_other_work_takes_the_cores_that_nobody_uses_first() -> None:
    """Of sixty-four cores thirty are busy: four threads have room."""
    assert num_threads(64, 4, 4, 30) == 4
    assert num_threads(64, 4, 4, 61.5) == 2
