"""A few tokens through a new context: when some flag makes llama.cpp crash here, it crashes now. Measures, too."""

import statistics
import time
from typing import NamedTuple

from agent.engine.llama import Context

PROMPT_TOKENS = 16
DECODE_TOKENS = 5


class Speed(NamedTuple):
    """Tokens a second, of a prompt and of one stream."""

    prefill_tok_s: float
    decode_tok_s: float


def canary(context: Context) -> Speed:
    """Decodes a prompt and a few single tokens, and forgets them."""
    count = min(PROMPT_TOKENS, context.context_tokens // 2)
    times = []
    for rows in [
        [(i % 64, i, 0, i == count - 1) for i in range(count)],
        *([(i % 64, i, 0, True)] for i in range(count, count + DECODE_TOKENS)),
    ]:
        started = time.monotonic()
        context.decode(rows)
        times.append(time.monotonic() - started)
    context.truncate(0, 0)
    # The median: the first steps also bring the weights into memory.
    return Speed(count / times[0], 1 / statistics.median(times[1:]))
