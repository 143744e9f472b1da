"""How probable it is that an answer is right, given the engine's confidence in it. Pure.

The engine's number says which of two answers is surer, not how sure. Isotonic regression makes it a probability: the
function that never falls and is nearest to the outcomes (pool adjacent violators; Barlow et al. 1972; for classifiers
Zadrozny and Elkan 2002). One calibration is for one model, adapter and task.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct

# With fewer outcomes a calibration says more about chance than about the model.
MIN_OUTCOMES = 50
NUM_BINS = 10


class Outcome(Struct, frozen=True):
    """An answer: how sure the engine was, and whether it was right."""

    confidence: float
    right: bool


class Calibration(Struct, frozen=True):
    """Steps: from `begins[i]` on up to the next an answer is right with probability `right[i]`."""

    begins: list[float]
    right: list[float]

    def probability(self, confidence: float) -> float:
        """How probable it is that an answer of this confidence is right."""
        return self.right[max(0, bisect_right(self.begins, confidence) - 1)]


def calibrate(outcomes: Iterable[Outcome]) -> Calibration | None:
    """The calibration that fits the outcomes best; None when there are too few."""
    ordered = sorted(outcomes, key=lambda one: one.confidence)
    if len(ordered) < MIN_OUTCOMES:
        return None
    blocks = list[tuple[float, int, int]]()  # begin, how many were right, how many there are
    for confidence, some in groupby(ordered, key=lambda one: one.confidence):  # equal ones are one point
        right = [one.right for one in some]
        block = confidence, sum(right), len(right)
        while blocks and blocks[-1][1] * block[2] >= block[1] * blocks[-1][2]:
            begin, num_right, size = blocks.pop()
            block = begin, num_right + block[1], size + block[2]
        blocks.append(block)
    return Calibration([begin for begin, _, _ in blocks], [num_right / size for _, num_right, size in blocks])


def threshold(probabilities: Sequence[float], share: float) -> float:
    """What an answer must be worth to be kept, if at most this share of such answers may be sent on.

    Of equal ones none is sent when all would be too many.
    """
    num_sent = int(share * len(probabilities))
    return sorted(probabilities)[num_sent] if num_sent < len(probabilities) else float("inf")


def calibration_error(pairs: Sequence[tuple[float, bool]]) -> float:
    """The expected calibration error: the mean distance of what was predicted from what came, in ten bins.

    Naeini et al. 2015, with as many answers in each bin, so that none is empty.
    """
    ordered = sorted(pairs, key=lambda pair: pair[0])  # not by what came, where predictions are equal
    total = 0.0
    for number in range(NUM_BINS):
        some = ordered[number * len(ordered) // NUM_BINS : (number + 1) * len(ordered) // NUM_BINS]
        total += abs(sum(predicted - right for predicted, right in some))
    return total / len(ordered) if ordered else 0.0
