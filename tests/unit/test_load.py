"""Loads of the benchmarks, and the figures that are made of answers."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clients import closed_loop, open_loop
from bench.load import (
    Answer,
    Ask,
    crowded_until,
    decoding_tok_s,
    first_token_s,
    jain,
    poisson_times,
    speeds_by_adapter,
    throughput,
    total_s,
    zipf_mix,
)
from bench.report import percentile


def _answer(begin: float, *tokens: float, adapter: int | None = None) -> Answer:
    """One that ends with its last token; each time is a token's."""
    return Answer(adapter, begin, [(at, 1) for at in tokens], tokens[-1])


@given(st.integers(1, 9), st.integers(0, 200), st.integers(0, 5))
def test_zipf_mix_has_exact_shares(num_adapters: int, more: int, seed: int) -> None:
    """All requests are dealt out, everybody gets one, the n-th has 1/n of the first one's; the order is the seed's."""
    num_asks = num_adapters + more
    mix = zipf_mix(num_asks, num_adapters, seed)
    counts = Counter(mix)
    weights = [1 / n for n in range(1, num_adapters + 1)]
    assert len(mix) == num_asks
    assert set(counts) == set(range(num_adapters))
    assert [counts[n] for n in range(num_adapters)] == sorted(counts.values(), reverse=True)
    if num_asks >= 5 * num_adapters * num_adapters:  # none had to be given its one
        assert all(abs(counts[n] - num_asks * w / sum(weights)) < 1 for n, w in enumerate(weights))
    assert Counter(zipf_mix(num_asks, num_adapters, seed + 1)) == counts
    assert zipf_mix(num_asks, num_adapters, seed) == mix


def test_poisson_times_have_the_rate() -> None:
    """They begin at 0, ascend, come again with the same seed, and are as many in a second as was wanted."""
    times = poisson_times(4000, 5.0, 1)
    assert times[0] == 0
    assert times == sorted(times) == poisson_times(4000, 5.0, 1) != poisson_times(4000, 5.0, 2)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.1)


def test_throughput_counts_up_to_a_moment() -> None:
    """Tokens over the time from the first request to the moment, or to the end of the last answer."""
    answers = [_answer(10, 11, 12, 13, 14), _answer(11, 13, 15)]
    assert throughput(answers) == 6 / 5
    assert throughput(answers, 12) == 2 / 2
    assert crowded_until(answers) == 11


def test_decoding_speed_leaves_out_prompts_and_tails() -> None:
    """It looks only at the time in which all streams have begun and none has ended."""
    assert decoding_tok_s([_answer(0, 1, 2, 3, 4, 5, 6), _answer(0, 3, 4, 5)]) == 4 / 2
    with pytest.raises(ValueError, match="ended before"):
        decoding_tok_s([_answer(0, 1, 2), _answer(0, 3, 4)])


def test_times_of_answers() -> None:
    """From asking to the first token, and to the end."""
    answers = [_answer(0, 1, 4), _answer(1, 4, 5), _answer(2, 4, 8)]
    assert [first_token_s(answers, share) for share in (0.5, 1.0)] == [2, 3]
    assert [total_s(answers, share) for share in (0.5, 1.0)] == [4, 6]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 100))
def test_percentile_is_the_nearest_rank(values: list[int], percent: int) -> None:
    """It is the least of the values that at least this share of them do not exceed."""
    found = percentile([float(value) for value in values], percent / 100)
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    assert 100 * sum(value < found for value in values) < percent * len(values)


def test_jain_is_one_for_equals_and_one_nth_for_a_monopoly() -> None:
    """Its two ends."""
    assert jain([3.0, 3.0, 3.0]) == 1
    assert jain([5.0, 0.0, 0.0, 0.0]) == 0.25


def test_speeds_by_adapter_do_not_count_demand() -> None:
    """Three requests with 2 tokens/s each are served as well as one; requests without an adapter do not count."""
    common = [_answer(at, at + 0.5, at + 1, adapter=0) for at in (0, 0, 5)]
    rare = [_answer(0, 1, 2, adapter=1)]
    assert speeds_by_adapter([*rare, *common, _answer(0, 9)]) == [2, 1]


def test_closed_loop_keeps_its_clients_busy() -> None:
    """Every request is answered once, by as many clients as there are."""
    asks = [Ask([("user", str(number))], 1) for number in range(20)]
    seen: list[tuple[int, Ask]] = []

    def answering(client: int, ask: Ask) -> Answer:
        seen.append((client, ask))
        return _answer(0, 1)

    assert len(closed_loop(answering, asks, 3)) == 20
    assert sorted(ask.turns for _, ask in seen) == sorted(ask.turns for ask in asks)
    assert {client for client, _ in seen} <= {0, 1, 2}


def test_open_loop_has_a_client_for_each_request() -> None:
    """Answers come in the order of the requests, whenever these were made."""
    clients: set[int] = set()

    def answering(client: int, ask: Ask) -> Answer:
        clients.add(client)
        return Answer(int(ask.at_s * 100), 0, [], 0)

    asks = [Ask([], 1, at_s=at) for at in (0.0, 0.05, 0.02)]
    assert [answer.adapter for answer in open_loop(answering, asks)] == [0, 5, 2]
    assert clients == {0, 1, 2}
