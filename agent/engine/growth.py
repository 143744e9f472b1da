"""How many sequences decode together: few at first, more while that is faster. Pure.

Each stream has key-value memory of its own, so a device that is asked one thing at a time should not pay for sixteen.
"""

START_STREAMS = 4
# Twice the streams must be so much faster than the half, or there is no further step. Not more: who waits less long for
# a stream has a benefit too, and texts that grow longer meanwhile make the later measurement look slower.
MIN_GAIN = 1.0
SMOOTHING = 0.1


class Growth:
    """Doubles the number of streams from `START_STREAMS` up to a limit, as long as it pays."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self.num_streams = self._before = min(START_STREAMS, max_streams)
        self._tok_s: dict[int, float] = {}  # with all streams decoding, by their number

    @property
    def is_worth_it(self) -> bool:
        """Whether more streams may be faster."""
        if self.num_streams >= self._max_streams:
            return False
        now, before = self._tok_s.get(self.num_streams), self._tok_s.get(self._before)
        return self._before == self.num_streams or before is None or now is None or now >= before * MIN_GAIN

    def note(self, tok_s: float) -> None:
        """The speed of a step in which all streams decoded."""
        mean = self._tok_s.get(self.num_streams, tok_s)
        self._tok_s[self.num_streams] = mean + SMOOTHING * (tok_s - mean)

    def next(self) -> int:
        """The next number of streams, which is the number from now on."""
        self._before, self.num_streams = self.num_streams, min(2 * self.num_streams, self._max_streams)
        return self.num_streams

    def stop(self) -> None:
        """There is no memory for the number that `next` gave."""
        self.num_streams = self._max_streams = self._before
