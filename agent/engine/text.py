"""Tokens to text: UTF-8 that never splits, stop strings that never leak a part of themselves."""

import codecs


class TextStream:
    """Turns the bytes of tokens into text that may be sent.

    What may be the beginning of a stop string is held back until it is certain, and so are the first bytes of a
    character that more tokens will complete. The same tokens always give the same pieces.
    """

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """The text that became certain with the next token's bytes. Sets `stopped` at a stop string."""
        return self._release(self._decode(piece))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        text = self._release(self._decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        # Of several the one that is complete first, so that it does not matter how tokens cut the text.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)[1]], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
