"""A pattern as its parts, and as Glushkov's automaton: whether it is deterministic, and whether a text fits.

Brüggemann-Klein, Wood: One-Unambiguous Regular Languages, 1998.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from contract import limits


class Chars(NamedTuple):
    """One character of these ranges, which are sorted and apart."""

    ranges: tuple[tuple[int, int], ...]


class Row(NamedTuple):
    """Parts that follow one another."""

    parts: "tuple[Node, ...]"


class Choice(NamedTuple):
    """One of several alternatives."""

    options: "tuple[Node, ...]"


class Repeat(NamedTuple):
    """A part from `low` to `high` times; None: without end."""

    part: "Node"
    low: int
    high: int | None


Node = Chars | Row | Choice | Repeat


def matches(node: Node, text: str) -> bool:
    """Whether a whole text fits a pattern, in time linear in the text.

    Python's `re` reads the same patterns, but lets them have quotes, backslashes and line breaks too, in which they may
    be ambiguous and take exponential time.
    """
    return Automaton().fits(node, text)


class _Span(NamedTuple):
    """A part with its counts written out: whether it may be empty, and where it may begin and end."""

    empty: bool
    first: frozenset[int]
    last: frozenset[int]


_NOTHING = _Span(True, frozenset(), frozenset())


class Automaton:
    """Glushkov's automaton: every character of the pattern is a place, with the places that may follow it."""

    def __init__(self) -> None:
        self._chars: list[Chars] = []
        self._follow: list[set[int]] = []

    def check(self, node: Node) -> None:
        """Raises ValueError when some character could belong to two places."""
        whole = self._span(node)
        for places in [set(whole.first), *self._follow]:
            ranges = sorted(pair for place in places for pair in self._chars[place].ranges)
            for (_, high), (low, _) in pairwise(ranges):
                if low <= high:
                    raise ValueError(
                        f"is ambiguous: {chr(low)!r} could belong to two of its parts; write it so that each next"
                        " character decides, such as [^-]*-x for .*-x"
                    )

    def fits(self, node: Node, text: str) -> bool:
        """Whether the automaton accepts a text. As the pattern is deterministic, it is in one place at a time."""
        whole = self._span(node)
        place, following = -1, set(whole.first)
        for char in map(ord, text):
            place = next((at for at in following if any(a <= char <= b for a, b in self._chars[at].ranges)), -1)
            if place < 0:
                return False
            following = self._follow[place]
        return place in whole.last if text else whole.empty

    def finder(self, node: Node) -> Callable[[str, int, int], int]:
        """A function of a text, a place in it and a length: how many characters from there on fit, at most so many."""
        whole = self._span(node)

        def longest(text: str, at: int, most: int) -> int:
            found, following = 0, set(whole.first)
            for length, char in enumerate(map(ord, text[at : at + most]), 1):
                place = next((p for p in following if any(a <= char <= b for a, b in self._chars[p].ranges)), -1)
                if place < 0:
                    break
                following = self._follow[place]
                if place in whole.last:
                    found = length
            return found

        return longest

    def _span(self, node: Node) -> _Span:
        match node:
            case Chars():
                if len(self._chars) >= limits.MAX_SCHEMA_PATTERN_PLACES:
                    raise ValueError(
                        f"is longer than {limits.MAX_SCHEMA_PATTERN_PLACES} characters with its counts written out"
                    )
                place = frozenset((len(self._chars),))
                self._chars.append(node)
                self._follow.append(set())
                return _Span(False, place, place)
            case Row(parts):
                whole = _NOTHING
                for part in parts:
                    whole = self._join(whole, self._span(part))
                return whole
            case Choice(options):
                spans = [self._span(option) for option in options]
                if any(span.empty for span in spans):
                    raise ValueError("has an alternative that may be empty; write (…)? for what may be absent")
                return _Span(
                    False,
                    frozenset().union(*(span.first for span in spans)),
                    frozenset().union(*(span.last for span in spans)),
                )
            case Repeat(part, low, high):
                return self._repeated(part, low, high)

    def _join(self, one: _Span, other: _Span) -> _Span:
        for place in one.last:
            self._follow[place] |= other.first
        return _Span(
            one.empty and other.empty,
            one.first | other.first if one.empty else one.first,
            other.last | one.last if other.empty else other.last,
        )

    def _repeated(self, part: Node, low: int, high: int | None) -> _Span:
        """`low` copies, then the last one again and again, or copies that may each be the last."""
        num_copies = max(low, 1) if high is None else high
        copies = []
        for _ in range(num_copies):
            copies.append(self._span(part))
            if copies[0].empty:
                raise ValueError("has a quantifier behind a group that may be empty; give it at least one character")
        whole = _NOTHING
        if high is None:
            if any(self._follow[place] & copies[-1].first for place in copies[-1].last):
                raise ValueError("is ambiguous: a group repeats without end what does so itself, as in (a+)+")
            self._join(copies[-1], copies[-1])
        for number, copy in reversed(list(enumerate(copies))):
            whole = self._join(copy, whole)
            if number >= low:
                whole = whole._replace(empty=True)
        return whole
