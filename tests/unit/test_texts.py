"""Which texts share a step of an encoder."""

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.texts import Pick, pick_texts


def test_jobs_take_turns() -> None:
    """A job of one text does not wait for one of hundreds."""
    assert pick_texts([[10] * 200, [10], [10, 10]], max_tokens=60, max_texts=64) == [
        Pick(0, 0), Pick(1, 0), Pick(2, 0), Pick(0, 1), Pick(2, 1), Pick(0, 2),
    ]  # fmt: skip


def test_the_first_text_always_goes() -> None:
    """Also one that is longer than a step should be; others wait then."""
    assert pick_texts([[500, 1], [1]], max_tokens=128, max_texts=64) == [Pick(0, 0)]


def test_a_text_that_does_not_fit_holds_up_its_own_job_only() -> None:
    """The order within a job is kept."""
    assert pick_texts([[50], [100, 1], [20]], max_tokens=128, max_texts=64) == [Pick(0, 0), Pick(2, 0)]


@given(st.lists(st.lists(st.integers(1, 200), max_size=5), max_size=5), st.integers(1, 200), st.integers(1, 6))
def test_steps_end(jobs: list[list[int]], max_tokens: int, max_texts: int) -> None:
    """Each step takes at least one text and stays within its limits; in the end every text was taken once, in order."""
    left = {number: list(job) for number, job in enumerate(jobs)}
    for _ in range(sum(map(len, jobs))):
        numbers = [number for number, job in left.items() if job]
        picked = pick_texts([left[number] for number in numbers], max_tokens=max_tokens, max_texts=max_texts)
        if not picked:
            break
        counts = [left[numbers[pick.job]][pick.text] for pick in picked]
        assert len(picked) <= max_texts
        assert sum(counts) <= max_tokens or len(picked) == 1
        for place, number in enumerate(numbers):
            own = [pick.text for pick in picked if pick.job == place]
            assert own == list(range(len(own)))
            del left[number][: len(own)]
    assert not any(left.values())
