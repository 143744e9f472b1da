"""The text of a streamed answer, put together from deltas that may be missing, doubled or out of order.

Deltas have QoS 0; the final's text is authoritative (rule 2 of the contract). Text is shown as long as no
piece is missing; from the first gap on, the rest waits for the final.
"""

from contract.answers import Delta


class Transcript:
    """What was shown of one answer so far."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._next_seq = 1
        self._early: dict[int, str] = {}

    def add(self, delta: Delta) -> str:
        """The text that can be shown now that `delta` is there; may be empty."""
        if delta.seq >= self._next_seq:
            self._early.setdefault(delta.seq, delta.text)
        pieces = []
        while self._next_seq in self._early:
            pieces.append(self._early.pop(self._next_seq))
            self._next_seq += 1
        self._shown += pieces
        return "".join(pieces)

    def finish(self, text: str) -> tuple[bool, str]:
        """What is left to show when the whole text is known.

        Returns:
            Whether what was shown is the beginning of `text`, and what to show now: the remainder if it is,
            else all of `text`. It is not when the engine died half-way and answered again in other words.
        """
        shown = "".join(self._shown)
        if text.startswith(shown):
            return True, text[len(shown) :]
        return False, text
