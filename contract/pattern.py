"""Patterns of strings in a JSON schema: the part of regular expressions that can be enforced at a known cost.

A pattern must be deterministic, as XML Schema demands of its content models: at each place the next character alone
decides which part of the pattern it belongs to. What enforces a grammar follows every place where a text may stand, for
each token of the vocabulary, so an ambiguous pattern of a dozen characters, `^(.?){24}$`, keeps llama.cpp busy for 80 s
a token. In a deterministic one a text stands in one place, and matching it backwards is linear too.

https://www.w3.org/TR/xml/#determinism; `contract.automaton` checks it.
"""

from contract import limits
from contract.automaton import Automaton, Chars, Choice, Node, Repeat, Row

# What a string in JSON holds unescaped. The rest would be escaped, and a pattern speaks of unescaped text.
PLAIN = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
CLASSES = {"d": ((0x30, 0x39),), "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)), "s": ((0x20, 0x20),)}
SPECIAL = set("^$.*+?()[]{}|\\")


def parse_pattern(pattern: str) -> Node:
    """The parts of `pattern`.

    Raises:
        ValueError: it is no pattern, uses more than can be enforced, or is not deterministic; says what would do.
    """
    if len(pattern) > limits.MAX_SCHEMA_PATTERN_CHARS:
        raise ValueError(f"has {len(pattern)} characters; at most {limits.MAX_SCHEMA_PATTERN_CHARS} are accepted")
    node = _Parser(pattern).whole()
    Automaton().check(node)
    return node


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        if not (pattern.startswith("^") and pattern.endswith("$")) or pattern == "^":
            raise ValueError("must begin with '^' and end with '$'")
        self._text = pattern[1:-1]
        self._at = 0

    def whole(self) -> Node:
        """The node of the whole pattern."""
        node = self._choice() if self._text else Row(())
        if self._at < len(self._text):
            raise ValueError("has a ')' without its '('")
        return node

    def _next(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        char = self._next()
        if not char:
            raise ValueError("ends in the middle of a group, a class, a count or an escape")
        self._at += 1
        return char

    def _choice(self) -> Node:
        options = [self._row()]
        while self._next() == "|":
            self._take()
            options.append(self._row())
        return _choice([node.parts if isinstance(node, Row) else (node,) for node in options])

    def _row(self) -> Node:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeat(self._atom()))
        if not parts:
            raise ValueError("has an empty group or alternative; write (…)? for what may be absent")
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def _atom(self) -> Node:
        char = self._take()
        match char:
            case "(":
                if self._next() == "?":
                    raise ValueError("uses (?…); only plain groups are accepted")
                node = self._choice()
                if self._take() != ")":
                    raise ValueError("has a '(' without its ')'")
                return node
            case "[":
                return self._class()
            case ".":
                return Chars(PLAIN)
            case "\\":
                return _chars(self._escape())
            case _ if char in SPECIAL:
                raise ValueError(f"has a {char!r} that stands for nothing here; write \\{char} for the character")
        return _chars(((ord(char), ord(char)),))

    def _escape(self) -> tuple[tuple[int, int], ...]:
        char = self._take()
        if char in CLASSES:
            return CLASSES[char]
        if char.isalnum() or not char.isascii():
            raise ValueError(f"uses \\{char}; of letters, only \\d, \\w and \\s are accepted")
        return ((ord(char), ord(char)),)

    def _class(self) -> Node:
        negated = self._next() == "^"
        if negated:
            self._take()
        ranges: list[tuple[int, int]] = []
        while (char := self._take()) != "]":
            found = self._member(char)
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._take()
                low, high = found[0][0], (last := self._member(self._take()))[0][0]
                if found != ((low, low),) or last != ((high, high),) or low > high:
                    raise ValueError("has a range of characters that does not go from one to a later one")
                found = ((low, high),)
            ranges += found
        if not ranges:
            raise ValueError("has an empty class of characters")
        return _chars(_complement(ranges) if negated else tuple(ranges))

    def _member(self, char: str) -> tuple[tuple[int, int], ...]:
        return self._escape() if char == "\\" else ((ord(char), ord(char)),)

    def _repeat(self, part: Node) -> Node:
        match self._next():
            case "*":
                low, high = 0, None
            case "+":
                low, high = 1, None
            case "?":
                low, high = 0, 1
            case "{":
                low, high = self._count()
            case _:
                return part
        self._take()
        if self._next() and self._next() in "*+?{":
            raise ValueError("has two quantifiers in a row; only one is accepted")
        return Repeat(part, low, high)

    def _count(self) -> tuple[int, int | None]:
        """Reads `{n}`, `{n,}` or `{n,m}` up to its last brace."""
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        numbers = [part for part in (low, high) if part]
        if end < 0 or not low or not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError("has a count that is none of {n}, {n,} and {n,m}; write \\{ for the character")
        self._at = end
        most = int(numbers[-1])
        if not 1 <= most <= limits.MAX_SCHEMA_REPEAT or int(low) > most:
            raise ValueError(f"has a count that is not from 1 to {limits.MAX_SCHEMA_REPEAT}, or in the wrong order")
        return int(low), int(high) if high else None if comma else int(low)


def _choice(options: list[tuple[Node, ...]]) -> Node:
    """One of `options`, with what several begin with taken out: on|off is o(n|ff)."""
    behind: dict[Node, list[tuple[Node, ...]]] = {}
    for first, *rest in options:
        behind.setdefault(first, []).append(tuple(rest))
    nodes: list[Node] = []
    for first, rests in behind.items():
        longer = [rest for rest in rests if rest]
        if len(rests) - len(longer) > 1:
            raise ValueError("has the same alternative twice")
        node: Node = first
        if longer:
            tail = _choice(longer)
            node = Row((first, tail if len(longer) == len(rests) else Repeat(tail, 0, 1)))
        nodes.append(node)
    return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))


def _chars(ranges: tuple[tuple[int, int], ...]) -> Chars:
    """The plain characters of `ranges`."""
    plain = [(max(a, c), min(b, d)) for a, b in ranges for c, d in PLAIN if max(a, c) <= min(b, d)]
    if not plain:
        raise ValueError("asks for a quote, a backslash or a control character, which JSON escapes")
    merged: list[tuple[int, int]] = []
    for low, high in sorted(plain):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return Chars(tuple(merged))


def _complement(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    left, start = [], 0
    for low, high in sorted(ranges):
        if start < low:
            left.append((start, low - 1))
        start = max(start, high + 1)
    return (*left, (start, 0x10FFFF)) if start <= 0x10FFFF else tuple(left)
