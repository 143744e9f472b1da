"""Loads, and what a set of answers says of who gave them. Pure: numbers in, numbers out."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bench.report import percentile

# Long answers, so that all streams decode together for a while.
STORIES = [
    f"Tell a very long story about {who}."
    for who in ("a cat", "a dog", "a ship", "a king", "a tree", "a car", "a star", "a robot")
]
# The default model's ends of text and turn: answers are then as long as was asked for.
ENDLESS = {0: -100.0, 2: -100.0}
# Ours and the peer's choose tokens in the same way.
SAMPLING = {"temperature": 0.2, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "seed": 1}


class Ask(NamedTuple):
    """A request. `adapter` is a number; `at_s` is when it is made, counted from the beginning of an open loop."""

    turns: list[tuple[str, str]]
    max_tokens: int
    adapter: int | None = None
    activation: Literal["prompt", "user"] | None = None
    at_s: float = 0.0


class Answer(NamedTuple):
    """What became of a request; times are monotonic seconds. `tokens` are pairs: when, and how many came then."""

    adapter: int | None
    asked: float
    tokens: list[tuple[float, int]]
    ended: float
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def first_token_s(self) -> float:
        """From asking to the first token."""
        return self.tokens[0][0] - self.asked

    @property
    def total_s(self) -> float:
        """From asking to the end."""
        return self.ended - self.asked

    @property
    def num_tokens(self) -> int:
        """New tokens."""
        return sum(count for _, count in self.tokens)


def zipf_mix(num_asks: int, num_adapters: int, seed: int) -> list[int]:
    """Which adapter each request names: the n-th has a share of 1/n, at least one request; in random order.

    The shares are exact (largest remainders), so runs with different seeds differ in order alone.
    """
    weights = [1 / (number + 1) for number in range(num_adapters)]
    quotas = [num_asks * weight / sum(weights) for weight in weights]
    counts = [max(1, int(quota)) for quota in quotas]
    by_remainder = sorted(range(num_adapters), key=lambda n: counts[n] - quotas[n])
    for turn in range(num_asks - sum(counts)):
        counts[by_remainder[turn % num_adapters]] += 1
    while sum(counts) > num_asks:  # the ones that were given to the rare
        counts[counts.index(max(counts))] -= 1
    mix = [number for number, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(mix)
    return mix


def poisson_times(num_asks: int, rate_per_s: float, seed: int) -> list[float]:
    """When requests come that know nothing of each other; the first one at 0."""
    rng, now, times = random.Random(seed), 0.0, []
    for _ in range(num_asks):
        times.append(now)
        now += rng.expovariate(rate_per_s)
    return times


def throughput(answers: Sequence[Answer], until: float | None = None) -> float:
    """Tokens a second from the first request on, up to `until` or the end of the last answer."""
    end = max(answer.ended for answer in answers) if until is None else until
    count = sum(count for answer in answers for at, count in answer.tokens if at <= end)
    return count / (end - min(answer.asked for answer in answers))


def crowded_until(answers: Sequence[Answer]) -> float:
    """When a closed loop asked for the last time: until then all its clients had a request under way."""
    return max(answer.asked for answer in answers)


def decoding_tok_s(answers: Sequence[Answer]) -> float:
    """Tokens a second while all of these streams decode: between the last one's first token and the first one's end.

    Raises:
        ValueError: there is no such time.
    """
    begin = max(answer.tokens[0][0] for answer in answers)
    end = min(answer.ended for answer in answers)
    if begin >= end:
        raise ValueError("cannot tell a decoding speed: the first stream ended before the last one began")
    count = sum(count for answer in answers for at, count in answer.tokens if begin < at <= end)
    return count / (end - begin)


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all values are equal, 1/n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def speeds_by_adapter(answers: Sequence[Answer]) -> list[float]:
    """For each adapter, tokens a second for each of its requests under way, so that demand does not count."""
    adapters = sorted({answer.adapter for answer in answers if answer.adapter is not None})
    groups = [[answer for answer in answers if answer.adapter == adapter] for adapter in adapters]
    return [sum(a.num_tokens for a in group) / sum(a.total_s for a in group) for group in groups]


def total_s(answers: Sequence[Answer], share: float) -> float:
    """The answer time that `share` of the answers do not exceed."""
    return percentile([answer.total_s for answer in answers], share)


def first_token_s(answers: Sequence[Answer], share: float) -> float:
    """The first-token time that `share` of the answers do not exceed."""
    return percentile([answer.first_token_s for answer in answers], share)
