"""The prefix cache: which slot's memory already holds the beginning of a prompt. Pure.

A slot of the context keeps what the last sequence in it has computed. A new prompt that begins with the same tokens
(a system prompt, the turns of a conversation) takes it over, or has it copied when that slot is still in use.

A prompt is taken over only up to one of its cuts, the beginnings of turns, and computing it anew stops at the same
cuts (`batch.plan`). So what follows is computed in the same portions either way and an answer does not depend on what
the cache held: with other portions the logits of quantised weights differ by half a unit, enough to turn a close
choice.
"""

from typing import NamedTuple

# Copying a slot moves its whole memory; below this many tokens computing them again is as fast.
MIN_COPY_TOKENS = 32


class Place(NamedTuple):
    """Where a prompt goes: the slot, from which slot its beginning is copied first (or None), and how much counts."""

    slot: int
    copy_from: int | None
    num_cached_tokens: int


def common_length(one: list[int], other: list[int]) -> int:
    """How many tokens both lists begin with."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def place(prompt: list[int], cuts: list[int], resident: dict[int, list[int]], free: list[int]) -> Place:
    """The best slot for `prompt`; `resident` holds each slot's computed tokens, `free` is ordered, oldest first.

    `cuts` are where the prompt may be continued, ascending; all below its length, because the logits of its last token
    are needed.
    """
    usable = {}
    for slot, tokens in resident.items():
        common = common_length(prompt, tokens)
        usable[slot] = max((cut for cut in cuts if cut <= common), default=0)
    slot = max(free, key=lambda s: (usable[s], -len(resident[s])))
    best = max(usable, key=usable.__getitem__)
    if usable[best] < usable[slot] + MIN_COPY_TOKENS:
        return Place(slot, None, usable[slot])
    # What the copy overwrites should be worth the least: the slot that was free the longest.
    return Place(free[0], best, usable[best])
