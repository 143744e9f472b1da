"""Topics: building and reading are inverses, wrong ones are refused, filters take what they should."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from contract import topics
from contract.limits import MAX_TOPIC_BYTES
from contract.topics import BadTopic, NodeRequest, Topic, is_below_client, parse

# The words of the templates are valid ids too: they must not be taken for the fixed parts.
WORDS = sorted({level for kind in topics.ALL for level in kind.TEMPLATE.split("/") if not level.startswith("{")})
IDS = st.sampled_from(WORDS) | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
KINDS = st.sampled_from(topics.ALL)


@st.composite
def _topics(draw: st.DrawFn) -> tuple[str, Topic]:
    kind = draw(KINDS)
    return draw(IDS), kind(**{name: draw(IDS) for name in kind.names()})


@given(_topics())
def test_parsing_is_the_inverse_of_building(drawn: tuple[str, Topic]) -> None:
    """Every topic of every kind, with any ids, comes back as it was."""
    fleet, topic = drawn
    assert parse(topic.path(fleet)) == (fleet, topic)


@given(st.lists(st.sampled_from(WORDS) | IDS | st.text(max_size=5), max_size=7).map("/".join))
def test_building_is_the_inverse_of_parsing(tail: str) -> None:
    """What is read from a name is written as the same name; anything else is refused."""
    name = f"{topics.ROOT}/{tail}"
    try:
        fleet, topic = parse(name)
    except BadTopic:
        return
    assert topic.path(fleet) == name


@given(_topics())
def test_a_name_belongs_to_one_kind(drawn: tuple[str, Topic]) -> None:
    """No name fits two templates, whatever the ids are."""
    fleet, topic = drawn
    levels = topic.path(fleet).split("/")[3:]
    assert [kind for kind in topics.ALL if kind.match(levels)] == [type(topic)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "shoal",
        "shoal/v1",
        "shoal/v1/home",
        "shoal/v1/home/",
        "shoal/v2/home/ctl/status",
        "shoal/v1//ctl/status",
        "/shoal/v1/home/ctl/status",
        "shoal/v1/home/ctl/status/",
        "shoal/v1/home/ctl/status/x",
        "shoal/v1/Home/ctl/status",
        "shoal/v1/home/node/n1",
        "shoal/v1/home/node/n1/req",
        "shoal/v1/home/node/n1/req/",
        "shoal/v1/home/node//req/c1",
        "shoal/v1/home/node/+/req/c1",
        "shoal/v1/home/node/n1/req/#",
        "shoal/v1/home/node/n1/req/+",
        "shoal/v1/home/node/N1/req/c1",
        "shoal/v1/home/node/n1/req/c1\n",
        "shoal/v1/home/node/n1\n/req/c1",
        "shoal/v1/home/node/n1/req/c1\0",
        "shoal/v1/home/node/n1/ask/c1",
        "shoal/v1/home/node/n1/req/c1/x",
        "shoal/v1/home/node/" + "n" * 64 + "/req/c1",
        "shoal/v1/home/client/c1/rx/i1/beta",
        "$share/p1/shoal/v1/home/pool/p1/req/c1",
        "shoal/v1/home/" + "a/" * 5000,
        "x" * 100_000,
    ],
)
def test_every_kind_of_wrong_topic_is_refused(name: str) -> None:
    """Missing, extra, empty, foreign and wildcard levels, invalid ids and endless names are none of the contract's."""
    with pytest.raises(BadTopic) as caught:
        parse(name)
    assert len(str(caught.value)) < 2 * MAX_TOPIC_BYTES


@pytest.mark.parametrize("wrong", ["", "N", "+", "#", "a/b", "a" * 64, "a\n", "../x"])
def test_a_topic_with_a_wrong_id_cannot_be_made(wrong: str) -> None:
    """An id that is none is refused where a topic is made, as node, as client and as fleet; the error says the rule."""
    with pytest.raises(BadTopic, match=r"cannot use client .*1 to 63 of a-z"):
        NodeRequest("n1", wrong)
    with pytest.raises(BadTopic, match="cannot use node "):
        NodeRequest(wrong, "c1")
    with pytest.raises(BadTopic, match="cannot use fleet "):
        NodeRequest("n1", "c1").path(wrong)


@given(_topics(), st.data())
def test_a_filter_takes_the_topics_of_its_ids(drawn: tuple[str, Topic], data: st.DataObject) -> None:
    """With any of its ids given, a kind's filter takes a topic that has them."""
    fleet, topic = drawn
    given_ids = data.draw(st.sets(st.sampled_from(topic.names()))) if topic.names() else set()
    wanted = topic.filter(fleet, **{name: getattr(topic, name) for name in given_ids})
    assert topic_matches_sub(wanted, topic.path(fleet))


@given(_topics(), _topics())
def test_a_filter_takes_nothing_else(drawn: tuple[str, Topic], other: tuple[str, Topic]) -> None:
    """A filter with all ids takes its own topic and no other; one without takes its own kind and no other."""
    fleet, topic = drawn
    exact = topic.filter(fleet, **msgspec.structs.asdict(topic))
    assert topic_matches_sub(exact, other[1].path(other[0])) == (drawn == other)
    any_ids = topic.filter(fleet)
    same_kind = type(topic) is type(other[1]) and fleet == other[0]
    assert topic_matches_sub(any_ids, other[1].path(other[0])) == same_kind


def test_a_pool_member_subscribes_to_its_share() -> None:
    """The shared subscription of CONTRACT.md: the pool's name is the group's."""
    assert topics.PoolRequest.shared_filter("home", "p1") == "$share/p1/shoal/v1/home/pool/p1/req/+"


def test_the_subscription_of_a_client_takes_deltas_and_finals() -> None:
    """`rx/+/+` is all that a client needs, as the contract says."""
    mine = "shoal/v1/home/client/c1/rx/+/+"
    for kind in (topics.AnswerDelta, topics.AnswerFinal):
        assert topic_matches_sub(mine, kind("c1", "i1").path("home"))
        assert not topic_matches_sub(mine, kind("c2", "i1").path("home"))


def test_all_kinds_are_listed_once() -> None:
    """Every subclass is in `ALL`, and no two have the same template."""
    assert set(topics.ALL) == set(Topic.__subclasses__())
    for one, other in itertools.combinations(topics.ALL, 2):
        assert one.TEMPLATE != other.TEMPLATE


def test_requests_are_never_retained_and_state_always_is() -> None:
    """Contract rule 3, and that nothing goes with QoS 2, which loses prompts."""
    retained = {kind.__name__ for kind in topics.ALL if kind.RETAINED}
    assert retained == {
        "NodeStatus", "NodeCard", "NodeDesired", "NodeReported", "GroupPolicy", "NodeHave", "ControllerStatus",
        "RolloutSummary", "NodeLoad", "ClientQuota",
    }  # fmt: skip
    assert {kind.QOS for kind in topics.ALL} <= {0, 1}


MINE = "shoal/v1/home/client/c1/"


@pytest.mark.parametrize("rest", ["answer", "rx/i1/final", "a", "a/b/c", "é/ü", "x y", "C1", "." * 20])
def test_a_reply_topic_below_the_client_is_its_own(rest: str) -> None:
    """Any plain name below `client/{client}/` may be answered to."""
    assert is_below_client(MINE + rest, "home", "c1")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        MINE,
        MINE[:-1],
        MINE + "/",
        MINE + "/a",
        MINE + "a/",
        MINE + "a//b",
        MINE + "+",
        MINE + "#",
        MINE + "a/#",
        MINE + "a/+/b",
        MINE + "$x",
        MINE + "a\0b",
        MINE + "a\nb",
        MINE + "a\u202eb",
        MINE + "\ud800",
        MINE + "\uffff",
        MINE + "x" * MAX_TOPIC_BYTES,
        MINE + "é" * (MAX_TOPIC_BYTES // 2),
        "shoal/v1/home/client/c10/answer",
        "shoal/v1/home/client/c/answer",
        "shoal/v1/home/client/C1/answer",
        "shoal/v1/home/client/c2/answer",
        "shoal/v1/homes/client/c1/answer",
        "shoal/v1/home/node/c1/req/c1",
        "shoal/v1/home/client/c1",
        "shoal/v1/home/client/+/answer",
        "$share/g/" + MINE + "a",
        "/" + MINE + "a",
        " " + MINE + "a",
        "$SYS/broker",
        "#",
    ],
)
def test_a_hostile_reply_topic_is_not_the_clients_own(topic: str) -> None:
    """Other clients' topics, wildcards, empty levels, control characters and endless names are refused."""
    assert not is_below_client(topic, "home", "c1")


@given(st.text(max_size=40) | st.text(max_size=30).map(MINE.__add__))
def test_what_is_below_a_client_can_be_published(topic: str) -> None:
    """A name that passes is a valid MQTT topic name that the client's own subscription takes."""
    if not is_below_client(topic, "home", "c1"):
        return
    assert topic_matches_sub(MINE + "#", topic)
    assert not topic_matches_sub("shoal/v1/home/client/c2/#", topic)
    assert 0 < len(topic.encode()) <= MAX_TOPIC_BYTES
    assert not set("+#\0") & set(topic)
