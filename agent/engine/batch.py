"""Which tokens go into the next step. Pure."""

from typing import NamedTuple

from agent.engine.sequence import Sequence, Stage


class Share(NamedTuple):
    """A sequence's part of a step: its next `num_tokens` tokens, and whether the last of them gives a new token."""

    sequence: Sequence
    num_tokens: int
    samples: bool


def plan(sequences: list[Sequence], budget: int) -> list[Share]:
    """Decoding sequences first, one token each, then prompts, oldest first, with what is left of `budget` tokens.

    So a long prompt never stops the others from speaking; it only makes their steps longer, by at most `budget`.
    """
    decoding = [s for s in sequences if s.stage is Stage.DECODE]
    shares = [Share(s, 1, True) for s in decoding]
    left = budget - len(shares)
    for sequence in sequences:
        if sequence.stage is Stage.PROMPT and left > 0:
            missing = len(sequence.tokens) - sequence.position
            count = min(missing, left)
            shares.append(Share(sequence, count, count == missing))
            left -= count
    return shares
