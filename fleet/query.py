"""The query language: `site=store-7 and ram_mib<4096 and not online`. Text to a tree and back. Pure.

    query  = both {"or" both}
    both   = one {"and" one}
    one    = "not" one | "(" query ")" | term
    term   = field op value | state | label
    op     = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"

`and`, `or` and `not` in any case. A state (`online`) is short for `state=online`, the name of a label for having it. A
value is quoted when it holds white space, operators, quotes or parentheses, or is one of the three words. `~` is for a
part of a text, or with `*` and `?` for a pattern, whatever the case. Ages end in ms, s, m, h, d or w: `last_seen>2h`.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from fractions import Fraction
from typing import Literal, get_args

from msgspec import Struct

from fleet.errors import UsageError
from fleet.fields import FIELDS, LABEL, STATES, Kind, kind_of

MAX_CHARS = 1000
MAX_DEPTH = 32

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~"]

_OPS: dict[Kind, tuple[Op, ...]] = {
    Kind.TEXT: ("=", "!=", "~"),
    Kind.NUMBER: ("=", "!=", "<", "<=", ">", ">="),
    Kind.AGE: ("<", "<=", ">", ">="),
}
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<mark>!=|<=|>=|[=<>~()]) | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[^\s()=!<>~"']+)""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"""[^\s()=!<>~"']+""")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,9})?")  # bounds that keep a number the same when it is written and read
_AGE = re.compile(rf"(\d{{1,15}}(?:\.\d{{1,9}})?)({'|'.join(_UNITS_MS)})")


class QueryError(UsageError):
    """A text is no query. The message shows the line and where in it."""


class Compare(Struct, frozen=True):
    """A term. Ages are in ms."""

    field: str
    op: Op
    value: str | int | float


class Not(Struct, frozen=True):
    """What does not fit."""

    term: "Query"


class And(Struct, frozen=True):
    """Two or more that all fit."""

    terms: "tuple[Query, ...]"


class Or(Struct, frozen=True):
    """Two or more of which one fits."""

    terms: "tuple[Query, ...]"


Query = Compare | Not | And | Or


def parse(text: str, labels: Collection[str] = ()) -> Query:
    """The tree of a query. `labels` are the names that some node of the fleet has.

    Raises:
        QueryError: says what was expected where.
    """
    if len(text) > MAX_CHARS:
        raise QueryError(f"cannot read a query of {len(text)} characters: at most {MAX_CHARS} are read")
    return _Parser(text, labels).whole()


def text_of(query: Query) -> str:
    """The query as text; parsed again it is the same tree."""
    match query:
        case Compare(field, op, value):
            return f"{field}{op}{_value_text(value, kind_of(field))}"
        case Not(term):
            return f"not {_inside(term, And, Or)}"
        case And(terms):
            return " and ".join(_inside(term, And, Or) for term in terms)
        case Or(terms):
            return " or ".join(_inside(term, Or) for term in terms)


def _inside(query: Query, *in_parentheses: type) -> str:
    text = text_of(query)
    return f"({text})" if isinstance(query, in_parentheses) else text


def _value_text(value: str | float, kind: Kind | None) -> str:
    if kind is Kind.AGE and isinstance(value, int):
        unit = max((u for u in _UNITS_MS if value % _UNITS_MS[u] == 0), key=_UNITS_MS.__getitem__)
        return f"{value // _UNITS_MS[unit]}{unit}"
    text = str(value)
    if isinstance(value, float) and "e" in text:
        text = f"{value:.9f}"
    if _WORD.fullmatch(text) and text.lower() not in ("and", "or", "not"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Token(Struct, frozen=True):
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent over the tokens; `_depth` counts what is open."""

    def __init__(self, text: str, labels: Collection[str]) -> None:
        self._text = text
        self._labels = labels
        self._depth = 0
        self._tokens = self._lex()
        self._next = 0

    def whole(self) -> Query:
        query = self._or()
        if self._peek().kind != "end":
            raise self._unexpected("`and`, `or` or the end")
        return query

    def _lex(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                what = "the closing quote is missing" if self._text[at] in "\"'" else "write != or not"
                raise self._error(at, f"{self._text[at]!r} has no meaning here: {what}")
            if found.lastgroup != "space":
                tokens.append(_Token(str(found.lastgroup), found[0], at))
            at = found.end()
        return [*tokens, _Token("end", "", len(self._text))]

    def _or(self) -> Query:
        terms = [self._and()]
        while self._take("or"):
            terms.append(self._and())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _and(self) -> Query:
        terms = [self._one()]
        while self._take("and"):
            terms.append(self._one())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _one(self) -> Query:
        at = self._peek().at
        is_not = self._take("not")
        if not is_not and not self._take("("):
            return self._term()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(at, f"more than {MAX_DEPTH} of `not` and parentheses are inside each other")
        query = Not(self._one()) if is_not else self._or()
        if not is_not and not self._take(")"):
            raise self._unexpected("`)`, `and` or `or`")
        self._depth -= 1
        return query

    def _term(self) -> Query:
        token = self._peek()
        if token.kind != "word" or token.text.lower() in ("and", "or"):
            raise self._unexpected("a field, a state, `not` or `(`")
        self._next += 1
        is_alone = self._peek().text not in get_args(Op) or self._peek().kind != "mark"
        if is_alone and token.text in STATES:
            return Compare("state", "=", token.text)
        field = self._field(token)
        if is_alone:
            if field.startswith(LABEL):
                return Compare(field, "~", "*")
            raise self._unexpected(f"one of {' '.join(_OPS[kind_of(field) or Kind.TEXT])} after {field}")
        return self._compare(field)

    def _compare(self, field: str) -> Compare:
        kind = kind_of(field) or Kind.TEXT
        op = next((op for op in _OPS[kind] if op == self._peek().text), None)
        if op is None:
            raise self._error(
                self._peek().at, f"{field} is {kind.value}, which is compared with {' '.join(_OPS[kind])}"
            )
        self._next += 1
        token = self._peek()
        is_word = token.kind == "word" and token.text.lower() not in ("and", "or", "not")
        if not is_word and token.kind != "quoted":
            raise self._unexpected(f"a value for {field} (in quotes if it is one of our words or marks)")
        self._next += 1
        text = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL) if token.kind == "quoted" else token.text
        return Compare(field, op, self._value(text, kind, token.at))

    def _value(self, text: str, kind: Kind, at: int) -> str | int | float:
        if kind is Kind.NUMBER:
            if not _NUMBER.fullmatch(text):
                raise self._error(at, f"{text!r} is no number")
            return float(text) if "." in text else int(text)
        if kind is Kind.AGE:
            age = _AGE.fullmatch(text)
            if not age:
                raise self._error(at, f"{text!r} is no age: write a number and {', '.join(_UNITS_MS)}, as in 90s or 2h")
            return round(Fraction(age[1]) * _UNITS_MS[age[2]])
        return text

    def _field(self, token: _Token) -> str:
        if kind_of(token.text):
            return token.text
        if token.text in self._labels:
            return LABEL + token.text
        known = [*FIELDS, *STATES, *sorted(self._labels)]
        near = get_close_matches(token.text.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)} and label.NAME"
        raise self._error(token.at, f"there is no field or label {token.text!r}; {hint}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, what: str) -> bool:
        found = self._peek().kind in ("word", "mark") and self._peek().text.lower() == what
        self._next += found
        return found

    def _unexpected(self, what: str) -> QueryError:
        token = self._peek()
        found = "the end" if token.kind == "end" else repr(token.text)
        return self._error(token.at, f"{what} was expected, not {found}")

    def _error(self, at: int, why: str) -> QueryError:
        line = re.sub(r"\s", " ", self._text)
        return QueryError(f"cannot read the query: at character {at + 1}, {why}\n  {line}\n  {' ' * at}^")
