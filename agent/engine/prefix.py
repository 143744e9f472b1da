"""The prefix cache: which memory already holds the beginning of a prompt. Pure, but for the bytes it keeps.

A stream of a context keeps what the last sequence in it has computed, and what a stream must give up goes into a store
of bounded size in RAM. A new prompt that begins with the same tokens (a system prompt, the turns of a conversation)
takes it over.

Tokens are compared as *marks*, eight bytes each: the token, and at the position where an adapter begins to act also
that adapter. So what was computed under one adapter is never taken for another, and what stands before serves all.

A prompt is taken over only up to one of its cuts, the beginnings of turns, and computing it anew stops at the same
cuts (`batch.plan`). So what follows is computed in the same portions either way and an answer does not depend on what
the cache held: with other portions the logits of quantised weights differ by half a unit, enough to turn a close
choice. A generated answer that the next turn of a conversation brings back is taken over as far as it is equal:
computed anew, in portions, it would differ from itself.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agent.engine.kv_state import SavedState

Marks = npt.NDArray[np.int64]

# Fewer tokens than these are computed again faster than they are kept and looked for. Not more: a chat template's own
# system turn has about 20, and every prompt without one begins with it.
MIN_SHARED_TOKENS = 16
_ADAPTER_SHIFT = 32


class Computed(NamedTuple):
    """What some memory holds: marks of its tokens, how many of them were a prompt, and the slot it was computed in."""

    marks: Marks
    num_prompt_tokens: int
    slot: int = 0


def marks_of(tokens: list[int], adapter: int = 0, activation: int = 0) -> Marks:
    """Marks of `tokens` where the adapter with this number (0: none) acts from position `activation` on."""
    marks = np.array(tokens, dtype=np.int64)
    if adapter and activation < len(marks):
        marks[activation] += adapter << _ADAPTER_SHIFT
    return marks


def useful_cuts(cuts: list[int], activation: int | None) -> list[int]:
    """Cuts that are worth a portion of their own, and the place where an adapter begins to act, if it is one."""
    useful = [activation] if activation else []
    last = 0
    for cut in cuts:
        if cut >= last + MIN_SHARED_TOKENS:
            useful.append(cut)
            last = cut
    return sorted(set(useful))


def num_usable(prompt: Marks, cuts: list[int], held: Computed) -> int:
    """How many tokens of a prompt can be taken over from what a memory holds; less than all of them."""
    common = min(_common_length(prompt, held.marks), len(prompt) - 1)
    if common > held.num_prompt_tokens:
        return common
    return max((cut for cut in cuts if cut <= common), default=0)


def _common_length(one: Marks, other: Marks) -> int:
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


class PrefixStore:
    """Saved beginnings of prompts, the least recently used going first when the bytes do not suffice."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, tuple[Computed, SavedState]] = OrderedDict()
        self._numbers = 0
        self.num_bytes = 0

    def takes(self, computed: Computed) -> bool:
        """Whether it would keep this: long enough to be worth it, and not the beginning of what it has."""
        if len(computed.marks) < MIN_SHARED_TOKENS or self._max_bytes <= 0:
            return False
        length = len(computed.marks)
        return all(_common_length(computed.marks, held.marks) < length for held, _ in self._entries.values())

    def put(self, computed: Computed, state: SavedState) -> None:
        """Keeps a state; what it continues is dropped, because it holds that too."""
        if state.data.size > self._max_bytes:
            return
        for number, (held, _) in list(self._entries.items()):
            if _common_length(computed.marks, held.marks) == len(held.marks):
                self.drop(number)
        while self._entries and self.num_bytes + state.data.size > self._max_bytes:
            self.drop(next(iter(self._entries)))
        self._numbers += 1
        self._entries[self._numbers] = (computed, state)
        self.num_bytes += state.data.size

    def best(self, prompt: Marks, cuts: list[int]) -> tuple[int, int]:
        """Which entry holds most of a prompt, and how many tokens of it; (0, 0) when none does."""
        return max(
            ((num_usable(prompt, cuts, held), number) for number, (held, _) in self._entries.items()), default=(0, 0)
        )[::-1]

    def get(self, number: int) -> SavedState:
        """An entry's state, which counts as used now."""
        self._entries.move_to_end(number)
        return self._entries[number][1]

    def drop(self, number: int) -> None:
        """Forgets an entry, such as one that turned out to be damaged, if it is still there."""
        if number in self._entries:
            self.num_bytes -= self._entries.pop(number)[1].data.size
