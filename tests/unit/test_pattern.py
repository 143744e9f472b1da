"""Patterns: the deterministic part of regular expressions, read as Python reads it, matched in linear time."""

import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from contract import limits
from contract.automaton import Chars, Choice, Node, Repeat, Row, matches
from contract.json_schema import check_schema
from contract.pattern import PLAIN, parse_pattern

LIMIT_S = 1.0

ACCEPTED = [
    r"^$",
    r"^a$",
    r"^.*$",
    r"^.{0,256}$",
    r"^[ab]{256}$",
    r"^(a|b|cd)*$",
    r"^a|b$",
    r"^[^-]*-x$",
    r"^[a-z]+@[a-z]+\.[a-z]{2,6}$",
    r"^([0-9]{1,3}\.){3}[0-9]{1,3}$",
    r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2}))?$",
    r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    r"^(on|off)(,(on|off))*$",
    r"^(a|ab|abc)$",
    r"^([a-z]+ on|[a-z]+ off)$",
    r"^[\w.-]+$",
    r"^[!-~]+$",
    r"^\^\$\.\*\+\?\(\)\[\]\{\}\|$",
    r"^[é-ü🦈 ]+$",
    r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$",
    "^" + "(" * 120 + "a" + ")" * 120 + "$",
]

REFUSED = [
    ("", "must begin"),
    ("^", "must begin"),
    ("a", "must begin"),
    ("^a", "must begin"),
    ("a$", "must begin"),
    (r"^}$", r"write \}"),
    (r"^]$", r"write \]"),
    (r"^a$b$", r"write \$"),
    (r"^*$", r"write \*"),
    (r"^{3}$", r"write \{"),
    (r"^a{1000000000}$", "from 1 to 256"),
    (r"^a{257}$", "from 1 to 256"),
    (r"^a{0}$", "from 1 to 256"),
    (r"^a{0,0}$", "from 1 to 256"),
    (r"^a{3,1}$", "wrong order"),
    (r"^a{1_000_000}$", "{n}, {n,} and {n,m}"),
    (r"^a{ 9}$", "{n}, {n,} and {n,m}"),
    (r"^a{,3}$", "{n}, {n,} and {n,m}"),
    (r"^a{-1}$", "{n}, {n,} and {n,m}"),
    (r"^a{٣}$", "{n}, {n,} and {n,m}"),
    (r"^a{3$", "{n}, {n,} and {n,m}"),
    (r"^a{}$", "{n}, {n,} and {n,m}"),
    (r"^a**$", "two quantifiers"),
    (r"^a+?$", "two quantifiers"),
    (r"^a{2}{3}$", "two quantifiers"),
    (r"^(?:a)$", "only plain groups"),
    (r"^(?=a)b$", "only plain groups"),
    (r"^()$", "empty group"),
    (r"^(a|)$", "empty group"),
    (r"^|a$", "empty group"),
    (r"^(a$", "in the middle"),
    (r"^a)$", "without its '('"),
    (r"^[a$", "in the middle"),
    (r"^[]$", "empty class"),
    (r"^[^]$", "empty class"),
    (r"^[z-a]$", "a later one"),
    (r"^[\d-z]$", "a later one"),
    (r"^\bword$", r"only \d, \w and \s"),
    (r"^\1$", r"only \d, \w and \s"),
    (r"^\u0041$", r"only \d, \w and \s"),
    (r'^"$', "JSON escapes"),
    (r"^\\$", "JSON escapes"),
    ("^\n$", "JSON escapes"),
    (r"^[\\]$", "JSON escapes"),
    (r"^(a?){3}$", "may be empty"),
    (r"^(a*)*$", "may be empty"),
    (r"^((a?)?)$", "may be empty"),
    (r"^(a?|b)c$", "may be empty"),
    (r"^(a|a)$", "the same alternative twice"),
    (r"^(a|b|ac?|ac)$", "may be empty"),
    (r"^([ab]|a)$", "ambiguous: 'a'"),
    (r"^(a|ab)b?$", "ambiguous: 'b'"),
    (r"^.*a$", "ambiguous: 'a'"),
    (r"^[a-m]?[k-z]$", "ambiguous: 'k'"),
    (r"^(a+)+$", "ambiguous"),
    (r"^(a{1,3}){2}$", "ambiguous"),
    (r"^(.|..){60}$", "ambiguous"),
    (r"^([a-z]{1,9}-){0,9}[a-z]$", "ambiguous"),
    (r"^((a{256}){256}){256}$", "longer than 1000"),
    ("^" + "a" * limits.MAX_SCHEMA_PATTERN_CHARS + "$", "at most 256"),
]


@pytest.mark.parametrize("pattern", ACCEPTED)
def test_usual_patterns_are_accepted(pattern: str) -> None:
    """Dates, numbers, addresses, lists of words: what people write for structured answers."""
    parse_pattern(pattern)
    check_schema({"type": "string", "pattern": pattern})


@pytest.mark.parametrize(("pattern", "why"), REFUSED)
def test_what_cannot_be_enforced_is_refused_with_the_reason(pattern: str, why: str) -> None:
    """Other syntax, counts beyond the limit, what JSON escapes and ambiguity are refused, and the reason says which."""
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_pattern(pattern)
    with pytest.raises(ValueError, match=r"^\$\.pattern "):
        check_schema({"type": "string", "pattern": pattern})


CHARS = st.sampled_from("abc-. 0")
ATOMS = CHARS.map(re.escape) | st.sampled_from([r".", r"\d", r"[ab]", r"[^a]", r"[a-c0-9]", r"\w"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({'|'.join(options)})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        )
    ),
    max_leaves=8,
).map(lambda body: f"^{body}$")


def _parsed(pattern: str) -> Node | None:
    try:
        return parse_pattern(pattern)
    except ValueError:
        return None


@st.composite
def _texts(draw: st.DrawFn, node: Node) -> str:
    """A text that a pattern means, by its parts."""
    match node:
        case Chars(ranges):
            low, high = draw(st.sampled_from(ranges))
            return chr(draw(st.integers(low, min(high, low + 30))))
        case Row(parts):
            return "".join([draw(_texts(part)) for part in parts])
        case Choice(options):
            return draw(_texts(draw(st.sampled_from(options))))
    most = node.low + 3 if node.high is None else min(node.low + 3, node.high)
    return "".join([draw(_texts(node.part)) for _ in range(draw(st.integers(node.low, most)))])


@given(st.data())
def test_our_matcher_says_what_python_says(data: st.DataObject) -> None:
    """Of texts that fit, that nearly fit, and of any, as long as they are plain."""
    pattern = data.draw(PATTERNS | st.sampled_from(ACCEPTED))
    node = _parsed(pattern)
    assume(node is not None and len(pattern) < 100)
    assert node is not None
    text = data.draw(_texts(node) | st.text(st.sampled_from("abc-. 09"), max_size=12))
    cut = data.draw(st.integers(0, len(text)))
    for one in (text, text[:cut], text[:cut] + "a" + text[cut:]):
        assert matches(node, one) == bool(re.fullmatch(pattern[1:-1], one)), (pattern, one)


@given(st.data())
def test_a_pattern_means_what_python_means(data: st.DataObject) -> None:
    """A text made from the parts of a pattern matches it in Python's `re`, so the check after decoding agrees."""
    pattern = data.draw(PATTERNS | st.sampled_from(ACCEPTED))
    node = _parsed(pattern)
    assume(node is not None and len(pattern) < 100)
    assert node is not None
    text = data.draw(_texts(node))
    assert re.search(pattern, text), (pattern, text)


@given(st.data())
def test_a_pattern_is_matched_in_linear_time(data: st.DataObject) -> None:
    """No accepted pattern makes Python's `re` backtrack for ever, also on a text that just fails to match."""
    pattern = data.draw(PATTERNS)
    node = _parsed(pattern)
    assume(node is not None)
    assert node is not None
    text = data.draw(_texts(node))
    compiled = re.compile(pattern)
    started = time.monotonic()
    for bad in (text * 200 + "\0", text + text[-1:] * 2000 + "\0", text[:1] * 2000 + "\0"):
        compiled.search(bad)
    assert time.monotonic() - started < LIMIT_S


def _follows_every_place(node: Node, text: str) -> bool:
    """The largest number of places where a text may stand is one: counted by taking every way through the parts."""

    def steps(node: Node, text: str) -> list[str]:
        match node:
            case Chars(ranges):
                fits = text and any(low <= ord(text[0]) <= high for low, high in ranges)
                return [text[1:]] if fits else []
            case Row(parts):
                rests = [text]
                for part in parts:
                    rests = [after for rest in rests for after in steps(part, rest)]
                return rests
            case Choice(options):
                return [after for option in options for after in steps(option, text)]
            case Repeat(part, low, high):
                ends = [text] if low == 0 else []
                rests = [text]
                for number in range(1, min(high if high is not None else 12, 12) + 1):
                    rests = [after for rest in rests for after in steps(part, rest)]
                    ends += rests if number >= low else []
                return ends

    return steps(node, text).count("") <= 1


@given(st.data())
@example(None)
def test_a_text_fits_a_pattern_in_one_way_at_most(data: st.DataObject | None) -> None:
    """Trying every way through the parts of an accepted pattern finds one at most: it is deterministic."""
    if data is None:  # the counting itself finds two ways through an ambiguous pattern
        a = Chars(((97, 97),))
        assert not _follows_every_place(Row((Repeat(a, 0, 1), Repeat(a, 0, 1))), "a")
        return
    node = _parsed(data.draw(PATTERNS))
    assume(node is not None)
    assert node is not None
    text = data.draw(_texts(node))
    assume(len(text) <= 12)
    assert _follows_every_place(node, text)


@given(st.text(max_size=40) | st.text("^$()[]{}|*+?.\\-ab019,", max_size=30).map(lambda body: f"^{body}$"))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    """Whatever is given is accepted or a ValueError, at once; what is accepted, Python accepts too."""
    started = time.monotonic()
    node = _parsed(text)
    assert time.monotonic() - started < LIMIT_S
    if node is not None:
        re.compile(text)


@pytest.mark.parametrize(
    "pattern",
    [
        "^" + "(" * 254 + "$",
        "^" + "[" * 254 + "$",
        "^" + "(a?" * 80 + "$",
        "^" + "".join(f"{chr(0x100 + n)}?" for n in range(120)) + "$",
        "^" + "|".join(chr(0x100 + n) for n in range(120)) + "$",
        "^([0-9]{1,256}-){3}$",
        "^" + "([a-z]-){250}" * 19 + "$",
    ],
    ids=range(7),
)
def test_reading_a_pattern_is_quick(pattern: str) -> None:
    """The longest and deepest patterns are read or refused at once."""
    started = time.monotonic()
    _parsed(pattern)
    assert time.monotonic() - started < LIMIT_S


def test_a_class_holds_only_what_json_leaves_unescaped() -> None:
    """A class that would take quotes or backslashes is narrowed to plain characters: a grammar could not write them."""
    assert parse_pattern(r"^.$") == Chars(PLAIN)
    assert parse_pattern(r"^[ -~]$") == Chars(((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E)))
    assert parse_pattern(r"^[^\w]$") != Chars(PLAIN)
