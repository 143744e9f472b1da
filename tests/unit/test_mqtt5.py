"""The MQTT 5 mirror: properties complete a request and never override its body."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Refused
from contract.ids import is_id
from contract.limits import MAX_TTL_MS
from contract.mqtt5 import Properties, check_reply_to, complete, for_answer
from contract.requests import Request
from contract.status import Status

MINE = "shoal/v1/home/client/c1/answer"


def test_properties_complete_what_the_body_leaves_out() -> None:
    """Correlation data is the id, the response topic the reply topic, and the expiry the time that is left."""
    completed = complete(Request(prompt="a"), Properties(b"r1", MINE, 30))
    assert (completed.id, completed.reply_to, completed.ttl_ms, completed.exp) == ("r1", MINE, 30_000, None)
    assert completed.prompt == "a"


@given(st.binary(max_size=20), st.text(max_size=20), st.integers(0, 2**32 - 1))
def test_the_body_wins(correlation: bytes, topic: str, expiry_s: int) -> None:
    """What the body says stays, whatever the properties say."""
    said = Request(prompt="a", id="mine", reply_to=MINE, ttl_ms=5)
    assert complete(said, Properties(correlation, topic, expiry_s)) == said
    absolute = Request(prompt="a", id="mine", reply_to=MINE, exp=1)
    assert complete(absolute, Properties(correlation, topic, expiry_s)) == absolute


def test_without_properties_nothing_changes() -> None:
    """A request over MQTT 3.1.1 stays as it is; empty properties say nothing."""
    asked = Request(prompt="a")
    assert complete(asked, Properties()) == asked
    assert complete(asked, Properties(b"", "", None)) == asked


@given(st.binary(min_size=1, max_size=40))
def test_any_correlation_data_gives_a_valid_id(correlation: bytes) -> None:
    """Bytes that are no id still make a request that can be answered and retried."""
    completed = complete(Request(prompt="a"), Properties(correlation))
    assert completed.id is not None
    assert is_id(completed.id)
    assert complete(Request(prompt="a"), Properties(correlation)) == completed


@given(st.integers(0, 2**32 - 1))
def test_the_expiry_is_a_time_that_a_request_may_ask_for(expiry_s: int) -> None:
    """An expiry of zero or of a week, which are matters of the broker, do not make a request invalid."""
    ttl_ms = complete(Request(prompt="a"), Properties(expiry_s=expiry_s)).ttl_ms
    assert ttl_ms is not None
    assert 1 <= ttl_ms <= MAX_TTL_MS
    assert ttl_ms == expiry_s * 1000 or not 1 <= expiry_s * 1000 <= MAX_TTL_MS


def test_an_answer_carries_both_the_id_and_the_senders_correlation_data() -> None:
    """The sender's correlation data comes back byte for byte; without it the id stands there."""
    assert for_answer("r1").correlation == b"r1"
    assert for_answer("r1", correlation=b"\xff\0").correlation == b"\xff\0"
    assert for_answer("r1", status=200, seq=3).user == (("shoal-v", "1"), ("shoal-status", "200"), ("shoal-seq", "3"))
    assert for_answer("r1", seq=0).user == (("shoal-v", "1"), ("shoal-seq", "0"))


@pytest.mark.parametrize("topic", [None, MINE, "shoal/v1/home/client/c1/deep/er"])
def test_a_reply_topic_of_the_senders_own_is_accepted(topic: str | None) -> None:
    """None, or below the client's own topics."""
    check_reply_to(Request(prompt="a", reply_to=topic), "home", "c1")


@pytest.mark.parametrize(
    "topic", ["x", "shoal/v1/home/client/c2/answer", "shoal/v1/home/client/c1/#", MINE + "\n", "a" * 5000]
)
def test_a_foreign_reply_topic_is_forbidden(topic: str) -> None:
    """403, with the topic and what would be accepted; a very long one is cut."""
    with pytest.raises(Refused) as caught:
        check_reply_to(Request(prompt="a", id="r1", reply_to=topic), "home", "c1")
    no = caught.value
    assert (no.status, no.code, no.request_id) == (Status.FORBIDDEN, "reply_to", "r1")
    assert repr(topic)[:20] in no.message
    assert "below shoal/v1/home/client/c1/" in no.message
    assert len(no.message) < 500


@given(st.text(max_size=30))
def test_a_response_topic_is_judged_like_the_bodys(topic: str) -> None:
    """A property cannot lead an answer to where the body could not."""

    def outcome(**given_as: Any) -> Status | None:
        properties = Properties(response_topic=given_as.get("response_topic"))
        try:
            check_reply_to(complete(Request(prompt="a", reply_to=given_as.get("reply_to")), properties), "home", "c1")
        except Refused as no:
            return no.status
        return None

    assert outcome(response_topic=topic) == outcome(reply_to=topic or None)
