"""How sure the model was of an answer, from 0 to 1. Pure."""

import math

import numpy as np

from agent.engine.row import Logits, Row

_LOW_QUANTILE = 0.1


class Confidence:
    """Collects, token by token, how probable the chosen one was and how clearly the best one led the second.

    Probabilities are those of the model itself, before temperature and the other choices of a request.
    """

    def __init__(self, scratch: Logits) -> None:
        """`scratch` is room for one row of logits, which others may use in between."""
        self._weights = scratch
        self._probabilities: list[float] = []
        self._margins: list[float] = []

    def note(self, row: Row, token: int) -> None:
        """Takes note of the token that was chosen from a row."""
        weights = self._weights
        np.subtract(row.logits, row.top, out=weights)
        chosen = float(weights[token])
        np.exp(weights, out=weights)
        self._probabilities.append(math.exp(chosen) / float(weights.sum()))
        weights[row.best] = 0
        runner_up = float(weights.max())
        # For two logits a distance m apart, tanh(m / 2) is the difference of their probabilities when only the two
        # are compared.
        self._margins.append((1 - runner_up) / (1 + runner_up))

    @property
    def value(self) -> float | None:
        """Half the 10 % quantile of the chosen tokens' probabilities, half their mean margin; None without tokens.

        The quantile sees the few places where it wavered, which a mean over a long answer hides; both are estimates of
        the same thing whatever the number of tokens, so that length does not count (quantile after Hyndman and Fan
        1996, number 8: free of bias in the median).
        """
        if not self._margins:
            return None
        low = float(np.quantile(self._probabilities, _LOW_QUANTILE, method="median_unbiased"))
        return (low + sum(self._margins) / len(self._margins)) / 2
