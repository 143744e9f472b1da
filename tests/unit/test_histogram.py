"""Histograms that can be merged."""

import base64
import math
import zlib
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.histogram import (
    MAX_TEXT_CHARS,
    MAX_VALUE,
    MIN_VALUE,
    RELATIVE_ERROR,
    BadHistogram,
    Histogram,
    decode,
    encode,
    merge,
)

HUNDREDTH = 0.01
VALUES = st.lists(st.one_of(st.just(0.0), st.floats(MIN_VALUE, MAX_VALUE)), max_size=60)
PARTS = (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "even": lambda random: random.uniform(1, 1000),
    "exponential": lambda random: random.expovariate(1 / 300),
    "lognormal": lambda random: random.lognormvariate(6, 1.5),
    "heavy tail": lambda random: 20 * random.paretovariate(1.1),
    "two humps": lambda random: random.gauss(40, 4) if random.random() < 0.94 else random.gauss(9000, 300),
    "constant": lambda _: 17.3,
}


def histogram_of(values: list[float]) -> Histogram:
    """All of them counted."""
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def as_text(data: bytes) -> str:
    """Any bytes, packed like a histogram."""
    packer = zlib.compressobj(wbits=-15)
    return base64.b85encode(b"\1" + packer.compress(data) + packer.flush()).decode()


def exact(values: list[float], part: float) -> float:
    """The quantile of the values themselves."""
    return sorted(values)[math.floor(part * (len(values) - 1))]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_fleets_quantiles_are_within_a_hundredth(name: str) -> None:
    """A thousand nodes of very different load, each sent as text and merged."""
    random = Random(name)
    nodes = [[abs(DISTRIBUTIONS[name](random)) for _ in range(random.randint(0, 60))] for _ in range(1000)]
    merged = merge(decode(encode(histogram_of(values))) for values in nodes)
    everything = [value for values in nodes for value in values]
    assert merged.num_values == len(everything)
    for part in PARTS:
        assert merged.quantile(part) == pytest.approx(exact(everything, part), rel=HUNDREDTH)


@given(VALUES)
def test_every_quantile_is_near_the_exact_one(values: list[float]) -> None:
    """From nothing to the largest value that is told apart."""
    for part in PARTS:
        found = histogram_of(values).quantile(part)
        if not values:
            assert found is None
        else:
            assert found == pytest.approx(exact(values, part), rel=HUNDREDTH, abs=0)


@given(VALUES, VALUES, VALUES)
def test_merging_is_counting_all(one: list[float], two: list[float], three: list[float]) -> None:
    """In whatever order and grouping; and it changes none of its parts."""
    a, b, c = map(histogram_of, (one, two, three))
    together = histogram_of(one + two + three)
    assert merge([a, merge([b, c])]) == merge([merge([c, a]), b]) == merge([b, c, a]) == together
    assert (a, b, c) == tuple(map(histogram_of, (one, two, three)))
    assert merge([]) == Histogram()


@given(VALUES)
def test_text_holds_all_of_it(values: list[float]) -> None:
    """Exactly, and as it is in JSON."""
    histogram = histogram_of(values)
    text = encode(histogram)
    assert decode(text) == histogram
    assert msgspec.json.encode(text) == f'"{text}"'.encode()


def test_what_is_out_of_range_counts_at_its_end() -> None:
    """Nothing is lost, and nothing makes a bucket of its own."""
    histogram = histogram_of([0, MIN_VALUE / 2, 1e300, math.inf])
    assert histogram.quantile(0) == histogram.quantile(0.4) == 0.0
    assert histogram.quantile(1) == pytest.approx(MAX_VALUE, rel=RELATIVE_ERROR * 1.0001)
    assert decode(encode(histogram)) == histogram


@pytest.mark.parametrize("value", [-1.0, -0.0001, math.nan, -math.inf])
def test_what_is_no_duration_is_refused(value: float) -> None:
    """A clock that was set back must not count as quick."""
    with pytest.raises(ValueError, match="cannot count"):
        Histogram().add(value)


@pytest.mark.parametrize("part", [-0.1, 1.1, math.nan])
def test_there_are_no_quantiles_outside(part: float) -> None:
    """95 is not 0.95."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Histogram().quantile(part)


def test_an_hour_of_a_busy_node_is_short() -> None:
    """First tokens between 50 ms and 5 s, tokens around 12 ms."""
    random = Random(7)
    first = encode(histogram_of([random.lognormvariate(6, 0.6) for _ in range(2000)]))
    token = encode(histogram_of([random.gauss(12, 2) for _ in range(2000)]))
    assert len(first) < 230
    assert len(token) < 130


def test_the_longest_text_is_read() -> None:
    """All buckets in use, with large counts."""
    all_buckets = histogram_of([MIN_VALUE * 1.018**n for n in range(1540)])
    full = Histogram(1, dict.fromkeys(all_buckets.counts, 2000000))
    assert len(full.counts) > 1500
    assert len(encode(full)) <= MAX_TEXT_CHARS
    assert decode(encode(full)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~~~~~~",
        "0",
        "ü",
        "x" * (MAX_TEXT_CHARS + 1),
        encode(Histogram(1 << 53)),
        encode(Histogram(5))[:-1],
        as_text(bytes(100_000)),
        as_text(b"\x85"),
        as_text(b"\0\0\x80\x10\1"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """With a reason."""
    with pytest.raises(BadHistogram, match="cannot read a histogram"):
        decode(text)


@given(
    st.one_of(st.text(max_size=40), st.binary(max_size=40).map(lambda raw: base64.b85encode(b"\x01" + raw).decode()))
)
def test_no_text_breaks_the_reader(text: str) -> None:
    """It is a histogram that can be sent on, or it is refused."""
    try:
        found = decode(text)
    except BadHistogram:
        return
    assert decode(encode(found)) == found
    found.quantile(0.5)
