"""Ids: what is one, and how one is made from something else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import ID_PATTERN, id_from, is_id, new_request_id, request_id_of

IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


@given(IDS)
def test_every_text_of_the_rule_is_an_id(text: str) -> None:
    """1 to 63 of the allowed characters that start with a letter or digit are an id."""
    assert is_id(text)


@pytest.mark.parametrize(
    "text", ["", "A", "-a", ".a", "_a", "a" * 64, "a b", "a/b", "a+", "#", "$a", "é", "a\n", "\na", "a\0", "²", "a\r"]
)
def test_other_texts_are_no_ids(text: str) -> None:
    """Empty, too long, other characters, a bad first one, and a newline at the end: none of them is an id."""
    assert not is_id(text)


@given(st.text(max_size=70))
def test_the_pattern_for_schemas_says_the_same_as_the_check(text: str) -> None:
    """The pattern that messages carry, searched for as msgspec does, agrees with `is_id`."""
    assert (re.search(ID_PATTERN, text) is not None) == is_id(text)


@given(st.binary(max_size=200))
def test_any_correlation_data_gives_one_id(data: bytes) -> None:
    """Correlation data of any kind stands for a valid id, the same one each time."""
    first = request_id_of(data)
    assert is_id(first)
    assert request_id_of(bytes(data)) == first


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=30, unique=True))
def test_different_correlation_data_give_different_ids(data: list[bytes]) -> None:
    """Two requests are never taken for one because of how their correlation data is turned into ids."""
    assert len({request_id_of(each) for each in data}) == len(data)


@given(IDS)
def test_correlation_data_that_is_an_id_is_that_id(text: str) -> None:
    """Who uses its request id as correlation data finds it again in topics."""
    assert request_id_of(text.encode()) == text


def test_made_ids_are_valid_and_new() -> None:
    """A request without an id gets one that no other has."""
    made = {new_request_id() for _ in range(100)}
    assert len(made) == 100
    assert all(map(is_id, made))


@given(st.text(max_size=100))
def test_any_text_gives_a_valid_id(text: str) -> None:
    """A host or file name of any form becomes a valid id, or the fallback."""
    assert is_id(id_from(text, "fallback"))


@given(IDS.filter(lambda text: text == text.strip("._-")))
def test_an_id_stays_as_it_is(text: str) -> None:
    """A name that is an id already is not changed."""
    assert id_from(text, "fallback") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kitchen Pi", "kitchen-pi"),
        ("SmolLM2-135M-Instruct.Q4_1", "smollm2-135m-instruct.q4_1"),
        ("--", "fallback"),
        ("", "fallback"),
        ("x" * 100, "x" * 63),
        ("küche", "k-che"),
    ],
)
def test_names_become_the_nearest_id(text: str, expected: str) -> None:
    """Lower case, other characters as one dash each run, at most 63 of them."""
    assert id_from(text, "fallback") == expected
