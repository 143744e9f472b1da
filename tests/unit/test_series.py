"""Which batches of telemetry came."""

from hypothesis import given
from hypothesis import strategies as st

from fleet.series import MAX_MISSING, Series, Verdict, take


def feed(arrivals: list[tuple[str, int]]) -> tuple[Series, list[tuple[str, int]]]:
    """What is known at the end, and which batches counted."""
    series: Series | None = None
    counted = []
    for run, seq in arrivals:
        series, verdict = take(series, run, seq)
        if verdict is Verdict.NEW:
            counted.append((run, seq))
    assert series is not None
    return series, counted


def test_gaps_show_until_they_are_filled() -> None:
    """A batch that comes late is none that was lost."""
    series, _ = feed([("a", 0), ("a", 1), ("a", 4)])
    assert (series.missing, series.num_gaps) == ((2, 3), 2)
    series, verdict = take(series, "a", 2)
    assert (verdict, series.missing) == (Verdict.NEW, (3,))
    assert take(series, "a", 2) == (series, Verdict.DOUBLE)


def test_a_new_run_begins_at_nothing() -> None:
    """Its first batches can be missing too, the gaps of the run before stay counted, and its late doubles are none."""
    series, counted = feed([("a", 0), ("a", 2), ("b", 1), ("a", 2), ("a", 1)])
    assert counted == [("a", 0), ("a", 2), ("b", 1)]
    assert (series.run, series.missing, series.num_gaps) == ("b", (0,), 2)


def test_what_was_before_the_first_batch_is_no_gap() -> None:
    """A controller that is new does not accuse its nodes."""
    assert feed([("a", 500)])[0].num_gaps == 0


def test_a_huge_number_costs_no_memory() -> None:
    """A node that is out of its mind makes a large gap, and nothing else."""
    series, _ = feed([("a", 0), ("a", 1 << 60)])
    assert len(series.missing) == MAX_MISSING
    assert series.num_gaps == (1 << 60) - 1


def test_gaps_that_are_not_kept_by_number_are_still_counted() -> None:
    """Every second batch is lost, for long."""
    series, _ = feed([("a", seq) for seq in range(0, 301, 2)])
    assert len(series.missing) == MAX_MISSING
    assert series.num_gaps == 150


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_every_batch_counts_once(order: list[int]) -> None:
    """In whatever order and however often they come; what never came is what is missing."""
    arrivals = [("a", 0)] + [("a", seq) for seq in order]
    series, counted = feed(arrivals)
    assert sorted(counted) == sorted(set(arrivals))
    assert set(series.missing) == set(range(series.next_seq)) - {seq for _, seq in arrivals}
    assert all(take(series, run, seq) == (series, Verdict.DOUBLE) for run, seq in arrivals)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), min_size=1, max_size=40))
def test_nothing_counts_twice_across_runs(arrivals: list[tuple[str, int]]) -> None:
    """And gaps are never negative."""
    series, counted = feed(arrivals)
    assert len(counted) == len(set(counted))
    assert series.num_gaps >= 0
    assert len(series.missing) <= MAX_MISSING
