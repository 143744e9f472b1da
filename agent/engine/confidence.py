"""How sure the model was of an answer, from 0 to 1. Pure."""

import math

import numpy as np
import numpy.typing as npt

_LOW_QUANTILE = 0.1


class Confidence:
    """Collects, token by token, how probable the chosen one was and how clearly the best one led the second.

    Probabilities are those of the model itself, before temperature and the other choices of a request.
    """

    def __init__(self, scratch: npt.NDArray[np.float32]) -> None:
        """`scratch` is room for one row of logits, which others may use in between."""
        self._row = scratch
        self._probabilities: list[float] = []
        self._margins: list[float] = []

    def note(self, logits: npt.NDArray[np.float32], token: int) -> None:
        """Takes note of a choice; `logits` are those of the whole vocabulary."""
        best = int(logits.argmax())
        top = float(logits[best])
        if not math.isfinite(top):
            self._probabilities.append(0.0)
            self._margins.append(0.0)
            return
        np.subtract(logits, top, out=self._row)
        np.exp(self._row, out=self._row)
        log_sum = math.log(float(self._row.sum()))
        self._row[best] = 0
        runner_up = float(self._row.max())
        second = math.log(runner_up) if runner_up > 0 else -math.inf
        chosen = float(logits[token]) - top - log_sum
        self._probabilities.append(math.exp(chosen) if math.isfinite(chosen) else 0.0)
        # For two logits a distance m apart, tanh(m / 2) is the difference of their probabilities when only the two
        # are compared.
        self._margins.append(math.tanh(-second / 2))

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
