"""What is personal in a text is replaced, `[MAIL_1]` for an address, before the text may go to a cloud. Pure.

The rules, in this order: custom patterns, mail, IBAN, card (Luhn), coordinates, IP, phone, name. docs/routing.md says
what each finds. What no rule describes stays, a name above all. Who may not risk that uses `site` or `local`.

Every rule takes time linear in the text: counts in the expressions are bounded and what they count is separated by what
they do not, and custom patterns are deterministic (contract.pattern). Python's `re` has no time limit.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from agent.given_names import GIVEN_NAMES
from contract.automaton import Automaton
from contract.pattern import parse_pattern
from contract.requests import TEXT_FIELDS, Request

MAX_CUSTOM_CHARS = 128  # of one match of a custom pattern

_MAIL = re.compile(r"[\w.+%'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(r"(?<!\d)\d(?:[ .-]?\d){12,18}(?!\d)")
_DEGREES = re.compile(
    r"\d{1,3}(?:[.,]\d{1,15})?\s{0,2}°(?:\s{0,2}\d{1,2}(?:[.,]\d{1,12})?\s{0,2}['\u2019\u2032]"
    r"(?:\s{0,2}\d{1,2}(?:[.,]\d{1,12})?\s{0,2}[\"\u201d\u2033])?)?\s{0,2}[NSEWO](?!\w)"
)
_DECIMALS = re.compile(r"(?<![\d.])([+-]?\d{1,3}\.\d{3,15})\s{0,3}[,;/ ]\s{0,3}([+-]?\d{1,3}\.\d{3,15})(?![\d.])")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]{3,39}(?:\.\d{1,3}){0,3})(?![\w:])")
_PHONE = re.compile(r"(?<!\w)(?!\d{4}-\d\d-\d\d(?!\d))[+(]{0,2}\d(?:[\s()./\u2013-]{0,3}\d){6,19}(?!\d)")
_WORD = r"[^\W\d_][\w'\u2019-]{0,40}"
_TITLES = "mr|mrs|ms|miss|dr|prof|sir|madam|herr|frau|señora?|sig|sra?|mme|m"
_TITLE = re.compile(rf"(?i:\b(?:{_TITLES})\b\.?|\b(?:name is|name:|called|named))\s{{1,3}}")
_NEXT = re.compile(rf"\s?({_WORD})")
_WORDS = re.compile(rf"{_WORD}(?:[ \t]{_WORD})*")


class Redacted(NamedTuple):
    """A request without what the rules found, and how much of each kind that was."""

    request: Request
    found: dict[str, int]


class Redactor:
    """The rules, with names and patterns of the node's own."""

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """`names` are words, found whatever their case; `patterns` are those of contract.pattern, from `^` to `$`.

        Raises:
            ValueError: a pattern is none; says what would do.
        """
        own = [re.escape(_plain(name)) for name in sorted(names, key=len, reverse=True) if name.strip()]
        self._names = re.compile(rf"(?<!\w)(?:{'|'.join(own)})(?!\w)", re.IGNORECASE) if own else None
        self._patterns = [Automaton().finder(parse_pattern(pattern)) for pattern in patterns]

    def redact(self, request: Request) -> Redacted:
        """The request as it may leave."""
        seen = _Seen()
        plain = msgspec.to_builtins(request, str_keys=True)
        texts = {name: _each_text(plain[name], lambda text: self.text(text, seen)) for name in TEXT_FIELDS}
        redacted = msgspec.convert({**plain, **texts}, Request, str_keys=True)
        return Redacted(redacted, seen.counts)

    def text(self, text: str, seen: "_Seen | None" = None) -> str:
        """A text without what the rules find. The same value has the same mark throughout `seen`."""
        mark = (seen or _Seen()).mark
        text = _plain(text)
        for finder in self._patterns:
            text = _replace_custom(text, finder, mark)
        text = _MAIL.sub(lambda m: mark("MAIL", m[0]), text)
        text = _IBAN.sub(lambda m: _iban(m[0], mark), text)
        text = _CARD.sub(lambda m: mark("CARD", m[0]) if is_luhn(m[0]) else m[0], text)
        text = _DEGREES.sub(lambda m: mark("PLACE", m[0]), text)
        text = _DECIMALS.sub(lambda m: mark("PLACE", m[0]) if _is_place(m[1], m[2]) else m[0], text)
        text = _IP.sub(lambda m: mark("IP", m[0]) if _is_address(m[0]) else m[0], text)
        text = _PHONE.sub(lambda m: mark("PHONE", m[0]), text)
        if self._names is not None:
            text = self._names.sub(lambda m: mark("NAME", m[0].casefold()), text)
        text = _titled(text, mark)
        return _WORDS.sub(lambda m: _given(m[0], mark), text)


class _Seen:
    """What was found in a request, so that the same value gets the same mark."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._marks: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}

    def mark(self, kind: str, value: str) -> str:
        self.counts[kind.lower()] = self.counts.get(kind.lower(), 0) + 1
        if (kind, value) not in self._marks:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            self._marks[kind, value] = f"[{kind}_{self._numbers[kind]}]"
        return self._marks[kind, value]


Mark = Callable[[str, str], str]


def is_luhn(number: str) -> bool:
    """Whether the last digit of a card's number is the check digit of the others (ISO/IEC 7812-1)."""
    digits = [int(char) for char in number if char.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(number: str) -> bool:
    """Whether the two check digits of an account's number are right (ISO 13616)."""
    plain = "".join(char for char in number.upper() if char.isalnum())
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _plain(text: str) -> str:
    """One form for what looks the same, without characters that nobody sees: a hidden one would hide a number."""
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with all its texts changed, names of a schema's properties too. Words of the contract stay."""
    match value:
        case str():
            return change(value)
        case list():
            return [_each_text(one, change) for one in value]
        case dict():
            return {
                change(name): one if name in ("role", "type") and isinstance(one, str) else _each_text(one, change)
                for name, one in value.items()
            }
    return value


def _replace_custom(text: str, finder: Callable[[str, int, int], int], mark: Mark) -> str:
    parts, at = [], 0
    while at < len(text):
        # Within a word nothing begins, so that a long word is not tried at each of its characters.
        starts = at == 0 or not (text[at - 1].isalnum() and text[at].isalnum())
        length = finder(text, at, MAX_CUSTOM_CHARS) if starts else 0
        parts.append(mark("CUSTOM", text[at : at + length]) if length else text[at])
        at += length or 1
    return "".join(parts)


def _iban(found: str, mark: Mark) -> str:
    """Words may stand behind the number, so the longest beginning with right check digits is taken."""
    for end in range(len(found), 14, -1):
        if found[end - 1].isalnum() and is_iban(found[:end]):
            return mark("IBAN", found[:end]) + found[end:]
    return found


def _is_place(one: str, other: str) -> bool:
    return abs(float(one)) <= 180 and abs(float(other)) <= 180 and min(abs(float(one)), abs(float(other))) <= 90


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _titled(text: str, mark: Mark) -> str:
    """Up to three words in capitals behind a title, which is how a name behind one goes."""
    parts, at = [], 0
    while title := _TITLE.search(text, at):
        end = title.end()
        for _ in range(3):
            word = _NEXT.match(text, end)
            if word is None or not word[1][0].isupper():
                break
            end = word.end()
        name = text[title.end() : end]
        parts += [text[at : title.end()], mark("NAME", name.casefold()) if name else ""]
        at = end
    return "".join([*parts, text[at:]])


def _given(words: str, mark: Mark) -> str:
    """A given name that is written with a capital, and a capitalised word behind it."""
    parts, kept = words.split(), list[str]()
    at = 0
    while at < len(parts):
        word = re.split(r"['\u2019-]", parts[at])[0]
        if not (word[0].isupper() and word.casefold() in GIVEN_NAMES):
            kept.append(parts[at])
            at += 1
            continue
        end = at + 1
        while end < len(parts) and parts[end][0].isupper():
            end += 1
        kept.append(mark("NAME", " ".join(parts[at:end]).casefold()))
        at = end
    return " ".join(kept)
