"""The query language: reading, writing, and which nodes fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.fields import FIELDS, STATES, Kind, Record, kind_of
from fleet.matching import fits
from fleet.query import MAX_CHARS, MAX_DEPTH, And, Compare, Not, Op, Or, Query, QueryError, parse, text_of

NOW = 1_800_000_000_000
HOUR_MS = 3_600_000
NODE = Record(
    node="n1", state="online", last_seen_ms=NOW - HOUR_MS, site="store-7", labels={"rack": "7", "owner": "Ann Lee"},
    pools=("cellar", "tills"), machine="aarch64", cores=4, ram_mib=3900, agent="0.1.0", models=("smollm2@1",),
    decode_tok_s=41.5, phase="confirmed", rev=3, active="smollm2@1", os="Linux 6.1",
)  # fmt: skip
LABELS = ("rack", "owner")


def is_true(text: str, record: Record = NODE) -> bool:
    """Whether a node fits a query."""
    return fits(parse(text, LABELS), record, NOW)


def test_the_words_bind_as_usual() -> None:
    """`not` before `and` before `or`, in any case, and parentheses before all."""
    one, two, three = (Compare("site", "=", name) for name in "abc")
    assert parse("site=a AND not site=b Or site=c") == Or((And((one, Not(two))), three))
    assert parse("site=a and (site=b or site=c)") == And((one, Or((two, three))))
    assert parse("((site=a))") == one
    assert parse("not not site=a") == Not(Not(one))
    assert parse("site=a and site=b and site=c") == And((one, two, three))


def test_values_are_of_the_fields_kind() -> None:
    """Numbers, ages in ms, texts with and without quotes."""
    assert parse("ram_mib<4096") == Compare("ram_mib", "<", 4096)
    assert parse("decode_tok_s >= 1.5") == Compare("decode_tok_s", ">=", 1.5)
    assert parse("last_seen>2h") == Compare("last_seen", ">", 2 * HOUR_MS)
    assert parse("last_seen<=0.1s") == Compare("last_seen", "<=", 100)
    assert parse('site="a \\"b\\" and"') == Compare("site", "=", 'a "b" and')
    assert parse("site='x y'") == Compare("site", "=", "x y")
    assert parse("site=7") == Compare("site", "=", "7")


def test_states_and_labels_stand_alone() -> None:
    """A label that some node has needs no prefix; its name alone asks whether a node has it."""
    assert parse("not lost") == Not(Compare("state", "=", "lost"))
    assert parse("rack=7", LABELS) == parse("label.rack=7") == Compare("label.rack", "=", "7")
    assert parse("rack", LABELS) == parse("label.rack") == Compare("label.rack", "~", "*")


@pytest.mark.parametrize(
    "text",
    [
        "site=store-7 and ram_mib<4096 and online", "not offline", "cores=4", "cores!=5", "cores>=4 and cores<=4",
        "pool=tills", "pool!=kitchen", "not pool=kitchen", "model~smol", "model~SMOL*", "node~n?", "os~6.1",
        "last_seen>59m", "last_seen<61m", "last_seen>=1h", "label.rack=7", "owner='Ann Lee'", "owner", "not label.gpu",
        "processor!=x", "not processor=x", "not prefill_tok_s<1", "rev=3 and phase=confirmed", "decode_tok_s>41",
    ],
)  # fmt: skip
def test_what_a_node_fits(text: str) -> None:
    """And does not fit the opposite."""
    assert is_true(text)
    assert not is_true(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    ["pool!=tills", "processor=x", "prefill_tok_s<1", "prefill_tok_s>=1", "model~[s]mol*", "site~tore?", "label.gpu"],
)
def test_what_a_node_does_not_fit(text: str) -> None:
    """One of several values is enough against it too; what is not known fits nothing; brackets mean themselves."""
    assert not is_true(text)


def test_a_node_that_was_never_seen_has_no_age() -> None:
    """It is neither young nor old."""
    never = Record(node="n2", state="offline")
    assert not is_true("last_seen>0s or last_seen<9w", never)


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    """A node that reports from the future was seen just now."""
    assert is_true("last_seen<=0s", Record(node="n2", state="online", last_seen_ms=NOW + HOUR_MS))


@pytest.mark.parametrize(
    ("text", "at", "hint"),
    [
        ("", 0, "a field, a state, `not` or `(` was expected, not the end"),
        ("site=", 5, "a value for site"),
        ("site= and online", 6, "not 'and'"),
        ("site store", 5, "one of = != ~ after site was expected, not 'store'"),
        ("site<a", 4, "site is a text, which is compared with = != ~"),
        ("last_seen=2h", 9, "an age, which is compared with < <= > >="),
        ("ram_mib<4g", 8, "'4g' is no number"),
        ("last_seen>2", 10, "'2' is no age"),
        ("cores=1e999", 6, "'1e999' is no number"),
        (f"cores={'9' * 16}", 6, "is no number"),
        ("(online", 7, "`)`, `and` or `or` was expected, not the end"),
        ("online)", 6, "`and`, `or` or the end was expected, not ')'"),
        ("online lost", 7, "not 'lost'"),
        ("sit=a", 0, "did you mean site "),
        ("racks=7", 0, "did you mean rack"),
        ("onlin", 0, "did you mean online "),
        ("xyzzy=1", 0, "there are node, state, site"),
        ("label.=1", 0, "there is no field or label 'label.'"),
        ("site='a", 5, "the closing quote is missing"),
        ("!online", 0, "write != or not"),
        ("online and or lost", 11, "not 'or'"),
        ("'online'", 0, "a field, a state"),
    ],
)
def test_errors_show_where_and_what_was_expected(text: str, at: int, hint: str) -> None:
    """The line, a caret below the place, and a sentence."""
    with pytest.raises(QueryError, match="cannot read the query") as error:
        parse(text, LABELS)
    sentence, line, caret = str(error.value).split("\n")
    assert hint in sentence
    assert f"at character {at + 1}," in sentence
    assert (line, caret) == (f"  {text}", f"  {' ' * at}^")


def test_length_and_depth_have_bounds() -> None:
    """Nothing is too deep for the stack."""
    assert parse("(" * MAX_DEPTH + "online" + ")" * MAX_DEPTH) == parse("online")
    for deep in ("(" * (MAX_DEPTH + 1) + "online", "not " * (MAX_DEPTH + 1) + "online"):
        with pytest.raises(QueryError, match="inside each other"):
            parse(deep)
    with pytest.raises(QueryError, match="at most 1000"):
        parse("x" * (MAX_CHARS + 1))


TEXTS = st.one_of(st.sampled_from(["a", "and", "store-7", "x y", '"', "\\", "*", "n?"]), st.text(max_size=5))
TEXT_OPS: st.SearchStrategy[Op] = st.sampled_from(["=", "!=", "~"])
ORDER_OPS: st.SearchStrategy[Op] = st.sampled_from(["<", "<=", ">", ">="])
NUMBER_OPS: st.SearchStrategy[Op] = st.one_of(st.sampled_from(["=", "!="]), ORDER_OPS)
BILLIONTHS = st.integers(-(10**12), 10**12).map(lambda n: n / 10**9)
TEXT_FIELDS = [name for name in FIELDS if kind_of(name) is Kind.TEXT] + ["label.rack", "label.and"]
NUMBER_FIELDS = [name for name in FIELDS if kind_of(name) is Kind.NUMBER]
TERMS: st.SearchStrategy[Query] = st.one_of(
    st.builds(Compare, st.sampled_from(TEXT_FIELDS), TEXT_OPS, TEXTS),
    st.builds(Compare, st.sampled_from(NUMBER_FIELDS), NUMBER_OPS, st.integers(-9, 5000)),
    st.builds(
        Compare, st.sampled_from(NUMBER_FIELDS), NUMBER_OPS, st.integers(-(10**12), 10**12).map(lambda n: n / 10**9)
    ),
    st.builds(Compare, st.just("last_seen"), ORDER_OPS, st.integers(0, 10 * HOUR_MS)),
    st.builds(Compare, st.just("state"), st.just("="), st.sampled_from(STATES)),
)
QUERIES = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)
RECORDS = st.builds(
    Record, node=st.just("n1"), state=st.sampled_from(STATES), site=st.one_of(st.none(), TEXTS),
    labels=st.dictionaries(st.sampled_from(["rack", "and"]), TEXTS), pools=st.lists(TEXTS, max_size=2).map(tuple),
    ram_mib=st.one_of(st.none(), st.integers(0, 5000)), last_seen_ms=st.one_of(st.none(), st.just(NOW - HOUR_MS)),
)  # fmt: skip


@given(QUERIES)
def test_a_query_that_is_written_reads_the_same(query: Query) -> None:
    """Quotes, units and parentheses are where they must be."""
    text = text_of(query)
    if len(text) <= MAX_CHARS:
        assert parse(text) == query


@given(QUERIES, QUERIES, RECORDS)
def test_it_is_boolean_algebra(a: Query, b: Query, record: Record) -> None:
    """De Morgan, twice not, and each way of saying unequal."""

    def holds(query: Query) -> bool:
        return fits(query, record, NOW)

    assert holds(Not(And((a, b)))) == holds(Or((Not(a), Not(b))))
    assert holds(Not(Or((a, b)))) == holds(And((Not(a), Not(b))))
    assert holds(Not(Not(a))) == holds(a)
    assert holds(And((a, b))) == (holds(a) and holds(b)) == holds(And((b, a)))
    if isinstance(a, Compare) and a.op == "!=":
        assert holds(a) == holds(Not(Compare(a.field, "=", a.value)))


@given(st.text(alphabet="ab ()=!<>~\"'\\andorNOT.site1hlabel", max_size=40))
def test_any_text_is_a_query_or_an_error(text: str) -> None:
    """And what is read can be written."""
    try:
        query = parse(text, LABELS)
    except QueryError:
        return
    assert parse(text_of(query)) == query
