"""What memory already holds the beginning of a prompt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.kv_state import SavedState, saved
from agent.engine.prefix import MIN_SHARED_TOKENS, Computed, PrefixStore, marks_of, num_usable, useful_cuts

LONG = list(range(100))
TOKENS = st.lists(st.integers(0, 2), max_size=40)


def held(tokens: list[int], num_prompt_tokens: int | None = None, *, adapter: int = 0, activation: int = 0) -> Computed:
    """A memory with these tokens, all of them a prompt unless said otherwise."""
    prompt = len(tokens) if num_prompt_tokens is None else num_prompt_tokens
    return Computed(marks_of(tokens, adapter, activation), prompt)


def state(num_bytes: int) -> SavedState:
    """A saved memory of this size."""
    return saved(np.zeros(num_bytes, np.uint8))


def test_a_prompt_is_taken_over_up_to_a_cut() -> None:
    """A beginning that ends between two cuts is used up to the first of them."""
    assert num_usable(marks_of(LONG), [10, 50], held(LONG[:49])) == 10
    assert num_usable(marks_of(LONG), [10, 50], held(LONG[:50])) == 50
    assert num_usable(marks_of(LONG), [10, 50], held(LONG[:9])) == 0


def test_an_answer_is_taken_over_as_far_as_it_is_equal() -> None:
    """Behind a memory's prompt no cut is needed: the answer was computed token by token."""
    assert num_usable(marks_of(LONG), [10], held(LONG[:70], 40)) == 70
    assert num_usable(marks_of(LONG), [10], held([*LONG[:60], 7], 40)) == 60
    assert num_usable(marks_of(LONG), [10], held([*LONG[:30], 7], 40)) == 10


def test_the_last_token_is_always_computed() -> None:
    """It gives the logits of the answer's first token."""
    assert num_usable(marks_of(LONG), [10, 99], held([*LONG, 5], 40)) == 99
    assert num_usable(marks_of(LONG), [10], held(LONG)) == 10


def test_adapters_share_what_stands_before_they_act() -> None:
    """Up to the activation the base alone computes; from there on nothing is shared."""
    prompt = marks_of(LONG, adapter=1, activation=50)
    cuts = [10, 50, 60]
    assert num_usable(prompt, cuts, held(LONG, adapter=2, activation=50)) == 50
    assert num_usable(prompt, cuts, held(LONG)) == 50
    assert num_usable(prompt, cuts, held(LONG, adapter=1, activation=50)) == 60
    assert num_usable(prompt, cuts, held(LONG, adapter=1)) == 0
    assert num_usable(prompt, cuts, held(LONG, adapter=1, activation=10)) == 10


def test_an_adapter_that_would_act_behind_the_end_marks_nothing() -> None:
    """Then the base has computed all of it."""
    assert marks_of([1, 2], adapter=3, activation=2).tolist() == [1, 2]


@given(
    tokens=TOKENS.filter(lambda tokens: len(tokens) > 1),
    other=TOKENS,
    adapters=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    data=st.data(),
)
def test_what_counts_as_computed_is_really_there(
    tokens: list[int], other: list[int], adapters: tuple[int, int], data: st.DataObject
) -> None:
    """Tokens that are taken over are the prompt's, computed by the same weights, and end at a cut or in an answer."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(tokens) - 1))))
    activations = [data.draw(st.integers(0, len(some))) for some in (tokens, other)]
    num_prompt_tokens = data.draw(st.integers(0, len(other)))
    memory = held(other, num_prompt_tokens, adapter=adapters[1], activation=activations[1])
    usable = num_usable(marks_of(tokens, adapters[0], activations[0]), cuts, memory)
    assert usable < len(tokens)
    assert other[:usable] == tokens[:usable]
    assert usable in [0, *cuts] or usable > num_prompt_tokens
    wanted, found = (
        [adapter if adapter and at >= activation else 0 for at in range(usable)]
        for adapter, activation in zip(adapters, activations, strict=True)
    )
    assert wanted == found


def test_the_store_finds_the_entry_that_holds_most() -> None:
    """Of several beginnings the one with the longest usable part is found."""
    store = PrefixStore(1000)
    for tokens in (LONG[:40], [*LONG[:60], 7, 7], [9, 9, *LONG]):
        store.put(held(tokens), state(10))
    entry, usable = store.best(marks_of(LONG), [30, 55])
    assert usable == 55
    assert store.get(entry).data.size == 10
    assert store.best(marks_of([8] * 50), [20])[1] == 0


def test_an_empty_store_has_nothing() -> None:
    """Nothing is found, and that is no error."""
    assert PrefixStore(1000).best(marks_of(LONG), [50]) == (0, 0)


def test_a_state_replaces_what_it_continues() -> None:
    """What a longer state begins with is dropped, and not taken a second time."""
    store = PrefixStore(1000)
    store.put(held(LONG[:50]), state(50))
    assert store.takes(held(LONG[:80]))
    store.put(held(LONG[:80]), state(80))
    assert store.num_bytes == 80
    assert not store.takes(held(LONG[:50]))
    assert not store.takes(held(LONG[:80]))


def test_the_same_tokens_under_another_adapter_are_another_beginning() -> None:
    """Neither replaces the other."""
    store = PrefixStore(1000)
    store.put(held(LONG, adapter=1), state(100))
    assert store.takes(held(LONG, adapter=2))
    store.put(held(LONG, adapter=2), state(100))
    assert store.num_bytes == 200
    assert store.best(marks_of(LONG, adapter=1), [50])[0] != store.best(marks_of(LONG, adapter=2), [50])[0]


def test_few_tokens_are_not_kept() -> None:
    """They are computed again faster than they are looked for."""
    store = PrefixStore(1000)
    assert not store.takes(held(LONG[: MIN_SHARED_TOKENS - 1]))
    assert store.takes(held(LONG[:MIN_SHARED_TOKENS]))
    assert not PrefixStore(0).takes(held(LONG))


def test_what_was_not_used_for_the_longest_goes_first() -> None:
    """When the bytes do not suffice, the entry that was put or taken last stays."""
    store = PrefixStore(300)
    for first in (1, 2, 3):
        store.put(held([first] * 50), state(100))
    store.get(store.best(marks_of([1] * 60), [40])[0])
    store.put(held([4] * 50), state(100))
    kept = [first for first in (1, 2, 3, 4) if store.best(marks_of([first] * 60), [40])[1]]
    assert kept == [1, 3, 4]


def test_a_state_larger_than_the_store_changes_nothing() -> None:
    """It would only drive out what fits."""
    store = PrefixStore(100)
    store.put(held(LONG), state(60))
    store.put(held([7] * 50), state(101))
    assert store.num_bytes == 60


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=32, max_size=36), st.integers(0, 2), st.integers(1, 40)),
        max_size=30,
    )
)
def test_the_store_never_holds_more_than_its_bytes(puts: list[tuple[list[int], int, int]]) -> None:
    """Whatever is put, the sum is right and within the limit, and no entry begins another."""
    store = PrefixStore(100)
    for tokens, adapter, num_bytes in puts:
        computed = held(tokens, adapter=adapter)
        if store.takes(computed):
            store.put(computed, state(num_bytes))
        entries = [marks.tolist() for (marks, _, _), _ in store._entries.values()]
        assert store.num_bytes == sum(kept.data.size for _, kept in store._entries.values()) <= 100
        assert not any(one is not other and other[: len(one)] == one for one in entries for other in entries)


def test_short_turns_get_no_portion_of_their_own_but_where_an_adapter_begins() -> None:
    """A cut that is too near to the last one would cost a pass over the weights and could never be shared."""
    assert useful_cuts([10, 40, 50, 90], None) == [40, 90]
    assert useful_cuts([10, 40], 0) == [40]
    assert useful_cuts([10, 40], 10) == [10, 40]
