"""A row of logits, and its best token. Pure."""

import math

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class NoChoice(Exception):
    """No logit is a number: the model, or the adapter, has computed nonsense."""


class Row:
    """What the model says of the next token: the `logits` of all, the `best` token, and its logit, `top`."""

    def __init__(self, logits: Logits) -> None:
        """`logits` are not copied.

        Raises:
            NoChoice: the best is no finite number.
        """
        self.logits = logits
        self.best = int(logits.argmax())  # a NaN counts as the greatest
        self.top = float(logits[self.best])
        if not math.isfinite(self.top):
            raise NoChoice

    def within(self, depth: float) -> npt.NDArray[np.intp]:
        """The tokens whose logits are at most this far below the best one's, ascending."""
        return np.flatnonzero(self.logits >= self.top - depth)
