"""Where a prompt goes in the prefix cache."""

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.prefix import MIN_COPY_TOKENS, Place, common_length, place

LONG = list(range(100))


def test_the_free_slot_that_holds_most_of_it_is_taken() -> None:
    """The slot with the longest usable beginning wins."""
    resident = {0: LONG[:20], 1: LONG[:60], 2: [7, 8]}
    assert place(LONG, [10, 50], resident, [2, 0, 1]) == Place(1, None, 50)


def test_only_cuts_count() -> None:
    """A beginning that ends between two cuts is used up to the first of them."""
    assert place(LONG, [10, 50], {0: LONG[:49]}, [0]) == Place(0, None, 10)


def test_a_slot_in_use_is_copied_into_the_one_free_longest() -> None:
    """When a slot that is not free holds much more, its memory is copied."""
    resident = {0: LONG[:90], 1: [], 2: [5]}
    assert place(LONG, [80], resident, [2, 1]) == Place(2, 0, 80)


def test_a_short_beginning_is_not_worth_a_copy() -> None:
    """Below the threshold computing again is as fast."""
    resident = {0: LONG, 1: []}
    cut = MIN_COPY_TOKENS - 1
    assert place(LONG, [cut], resident, [1]) == Place(1, None, 0)


def test_an_empty_slot_is_preferred_to_overwriting_a_full_one() -> None:
    """Without anything in common, what is kept for others stays."""
    assert place(LONG, [50], {0: [1, 2, 3], 1: []}, [0, 1]).slot == 1


@given(
    prompt=st.lists(st.integers(0, 2), min_size=2, max_size=40),
    held=st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=4),
    data=st.data(),
)
def test_what_counts_as_cached_is_really_there(prompt: list[int], held: list[list[int]], data: st.DataObject) -> None:
    """The chosen source holds the prompt's first tokens, the slot is free, and the length is a cut or nothing."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(prompt) - 1))))
    free = data.draw(st.lists(st.sampled_from(range(len(held))), min_size=1, unique=True))
    found = place(prompt, cuts, dict(enumerate(held)), free)
    source = held[found.slot if found.copy_from is None else found.copy_from]
    assert found.slot in free
    assert found.num_cached_tokens in [0, *cuts]
    assert source[: found.num_cached_tokens] == prompt[: found.num_cached_tokens]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_length_is_exact(one: list[int], other: list[int]) -> None:
    """That many tokens are equal, and the next are not."""
    n = common_length(one, other)
    assert one[:n] == other[:n]
    assert n in (len(one), len(other)) or one[n] != other[n]
