"""When a request is published again: rule 1 of the contract."""

from collections.abc import Callable, Iterator

DELAYS_S = (1.0, 2.0, 4.0)
JITTER = 0.2


def retry_delays_s(random: Callable[[], float]) -> Iterator[float]:
    """Seconds to wait before each retry, 1, 2 and 4 s ± 20 %; `random` gives numbers from 0 to 1.

    The jitter keeps clients apart that all lost the same broker at the same moment.
    """
    for delay_s in DELAYS_S:
        yield delay_s * (1 - JITTER + 2 * JITTER * random())
