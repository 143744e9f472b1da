"""What of a request may stand in MQTT 5 properties, and when it must have ended."""

import pytest

from contract.deadlines import CLOCK_FLOOR_MS, clock_is_set, deadline_ms
from contract.errors import Refused
from contract.ids import is_id
from contract.limits import DEFAULT_TTL_MS, MAX_TTL_MS
from contract.mqtt5 import Properties, check_reply_to, complete, for_answer
from contract.requests import Request

NOW = CLOCK_FLOOR_MS + 1_000_000
OWN = "shoal/v1/home/client/c1/inbox"


def test_properties_complete_a_request() -> None:
    """Id, reply topic and expiry are taken from properties when the body has none."""
    found = complete(Request(prompt="x"), Properties(b"abc", OWN, 7))
    assert (found.id, found.reply_to, found.ttl_ms, found.exp) == ("abc", OWN, 7000, None)


def test_the_body_wins() -> None:
    """What the body says stays."""
    asked = Request(prompt="x", id="own", reply_to=OWN, exp=NOW)
    assert complete(asked, Properties(b"abc", "other", 7)) == asked


@pytest.mark.parametrize("correlation", [b"\x00\xff", b"A/B", b"x" * 200, "grün".encode()])
def test_any_correlation_data_is_an_id(correlation: bytes) -> None:
    """Bytes that are no id give one, the same each time and another for other bytes."""
    first = complete(Request(prompt="x"), Properties(correlation)).id
    assert first is not None
    assert is_id(first)
    assert complete(Request(prompt="x"), Properties(correlation)).id == first
    assert complete(Request(prompt="x"), Properties(correlation + b"!")).id != first


@pytest.mark.parametrize(("expiry_s", "ttl_ms"), [(0, 1), (10**9, MAX_TTL_MS)])
def test_expiry_is_kept_within_what_is_accepted(expiry_s: int, ttl_ms: int) -> None:
    """An expiry of any size is a deadline."""
    assert complete(Request(prompt="x"), Properties(expiry_s=expiry_s)).ttl_ms == ttl_ms


@pytest.mark.parametrize(
    "topic",
    [
        "shoal/v1/home/client/c2/inbox", "shoal/v1/home/client/c1", "shoal/v1/home/client/c1/",
        "shoal/v1/home/client/c1/+",
        "shoal/v1/home/client/c1/a/#", "shoal/v1/home/client/c1x/a", "shoal/v1/other/client/c1/a", "$SYS/broker",
        "shoal/v1/home/client/c1/a//b", "shoal/v1/home/client/c1/a\x00b", "shoal/v1/home/node/n1/desired",
        "shoal/v1/home/client/c1/" + "x" * 600,
    ],
)  # fmt: skip
def test_answers_go_to_the_sender_alone(topic: str) -> None:
    """A reply topic that is not strictly below the sender's own is 403."""
    with pytest.raises(Refused) as refused:
        check_reply_to(Request(prompt="x", reply_to=topic), "home", "c1")
    assert refused.value.status == 403
    check_reply_to(Request(prompt="x", reply_to=OWN), "home", "c1")


def test_answers_carry_the_mirror() -> None:
    """Correlation is the sender's own bytes, else the id; status and seq are text."""
    found = for_answer("r1", status=200, seq=3)
    assert found.correlation == b"r1"
    assert dict(found.user) == {"shoal-v": "1", "shoal-status": "200", "shoal-seq": "3"}
    assert for_answer("r1", correlation=b"\x01").correlation == b"\x01"


def test_the_earlier_deadline_holds() -> None:
    """With both given, whichever comes first; with none, the default."""
    assert deadline_ms(NOW, exp=NOW + 500, ttl_ms=900) == NOW + 500
    assert deadline_ms(NOW, exp=NOW + 900, ttl_ms=500) == NOW + 500
    assert deadline_ms(NOW, exp=NOW - 5, ttl_ms=None) == NOW - 5
    assert deadline_ms(NOW, exp=None, ttl_ms=None) == NOW + DEFAULT_TTL_MS


def test_a_clock_that_is_not_set_knows_only_durations() -> None:
    """In 1970 an absolute deadline means nothing."""
    assert not clock_is_set(1000)
    assert deadline_ms(1000, exp=NOW, ttl_ms=None) == 1000 + DEFAULT_TTL_MS
    assert deadline_ms(1000, exp=NOW, ttl_ms=20) == 1020
