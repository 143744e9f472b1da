"""Tokens to text: no torn characters, no leaked stop strings."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.engine.text import TextStream

SMALL = st.text(alphabet="abé🐟", max_size=30)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3)


def pieces(raw: bytes, cuts: list[int], stops: list[str]) -> tuple[list[str], TextStream]:
    """What a stream gives for bytes that arrive cut at these places."""
    stream = TextStream(stops)
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    out = [stream.push(raw[a:b]) for a, b in pairwise(edges)]
    return [*out, stream.finish()], stream


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The reference: the text up to the stop string that is complete first, the longest when several end there."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(text=SMALL, cuts=st.lists(st.integers(0, 200), max_size=12), stops=STOPS)
@example(text="abcd", cuts=[], stops=["abcd", "c"])
@example(text="abcd", cuts=[1, 2, 3], stops=["abcd", "c"])
@example(text="aab", cuts=[1, 2], stops=["ab", "aab"])
@example(text="aaaa", cuts=[2], stops=["aaa"])
def test_the_text_ends_before_the_first_stop_string(text: str, cuts: list[int], stops: list[str]) -> None:
    """However the bytes are cut, the pieces join to the text up to where a stop string is first complete."""
    out, stream = pieces(text.encode(), cuts, stops)
    assert ("".join(out), stream.stopped) == expected(text, stops)
    assert not any(stop in "".join(out) for stop in stops)


@given(raw=st.binary(max_size=30), cuts=st.lists(st.integers(0, 200), max_size=12), stops=STOPS | st.just(["\ufffd"]))
def test_any_bytes_end_before_the_first_stop_string(raw: bytes, cuts: list[int], stops: list[str]) -> None:
    """Bytes that are no UTF-8 change nothing about it."""
    out, stream = pieces(raw, cuts, stops)
    assert ("".join(out), stream.stopped) == expected(raw.decode(errors="replace"), stops)


@given(text=SMALL, cuts=st.lists(st.integers(0, 200), max_size=12), stops=STOPS)
def test_nothing_is_sent_that_has_to_be_taken_back(text: str, cuts: list[int], stops: list[str]) -> None:
    """At no time has a part of the stop string been sent that the text then ends with, and no piece comes after it."""
    stream = TextStream(stops)
    raw = text.encode()
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    sent, whole = "", expected(text, stops)[0]
    for a, b in pairwise(edges):
        was_stopped = stream.stopped
        piece = stream.push(raw[a:b])
        assert not (was_stopped and piece)
        sent += piece
        assert whole.startswith(sent)
    assert stream.finish() == whole.removeprefix(sent)
    assert stream.push(b"more") == "" or not stream.stopped


@given(text=SMALL, cuts=st.lists(st.integers(0, 200), max_size=12), stops=STOPS)
def test_the_same_tokens_give_the_same_pieces(text: str, cuts: list[int], stops: list[str]) -> None:
    """A run that is repeated after a crash says nothing twice: its pieces are the same."""
    assert pieces(text.encode(), cuts, stops)[0] == pieces(text.encode(), cuts, stops)[0]


@given(raw=st.binary(max_size=40), cuts=st.lists(st.integers(0, 200), max_size=12))
def test_any_bytes_become_text(raw: bytes, cuts: list[int]) -> None:
    """Bytes that are no UTF-8 become replacement characters, the same wherever they are cut."""
    assert "".join(pieces(raw, cuts, [])[0]) == raw.decode(errors="replace")


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    """Nothing is sent that a next token could turn into a stop string."""
    stream = TextStream(["END"])
    assert stream.push(b"the E") == "the "
    assert stream.push(b"N") == ""
    assert stream.push(b"T") == "ENT"


@pytest.mark.parametrize("raw", ["é".encode(), "🐟".encode()])
def test_a_character_comes_whole(raw: bytes) -> None:
    """Of a character in several tokens nothing is sent before the last."""
    stream = TextStream([])
    assert [stream.push(bytes([byte])) for byte in raw] == [""] * (len(raw) - 1) + [raw.decode()]
