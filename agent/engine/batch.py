"""Which tokens go into the next step. Pure."""

from typing import NamedTuple

from agent.engine.sequence import Sequence, Stage


class Share(NamedTuple):
    """A sequence's part of a step: its next `num_tokens` tokens, and whether the last of them gives a new token."""

    sequence: Sequence
    num_tokens: int
    samples: bool


def plan(sequences: list[Sequence], budget: int) -> list[Share]:
    """Decoding sequences first, one token each, then prompts with what is left of `budget` tokens.

    Prompts in order of priority, then of arrival. So a long prompt never stops the others from speaking; it only makes
    their steps longer, by at most `budget`.
    """
    decoding = [s for s in sequences if s.stage is Stage.DECODE]
    shares = [Share(s, 1, True) for s in decoding]
    left = budget - len(shares)
    for sequence in sorted((s for s in sequences if s.stage is Stage.PROMPT), key=lambda s: -s.priority):
        if left <= 0:
            break
        count = min(sequence.num_portion_tokens, left)
        is_last = sequence.position + count == len(sequence.tokens)
        shares.append(Share(sequence, count, is_last))
        left -= count
    return shares
