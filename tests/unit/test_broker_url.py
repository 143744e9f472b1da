"""Broker URLs: what is read, what is refused, and that passwords stay hidden."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.broker_url import BrokerUrl, parse_broker_url
from fleet.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://127.0.0.1", BrokerUrl("127.0.0.1", 1883)),
        ("mqtt://broker.local:1884", BrokerUrl("broker.local", 1884)),
        ("mqtt://broker.local/", BrokerUrl("broker.local", 1883)),
        ("mqtts://broker.local", BrokerUrl("broker.local", 8883, tls=True)),
        ("MQTTS://broker.local:443", BrokerUrl("broker.local", 443, tls=True)),
        ("mqtt://[::1]:1884", BrokerUrl("::1", 1884)),
        ("mqtt://ann@host", BrokerUrl("host", 1883, user="ann")),
        ("mqtt://ann:@host", BrokerUrl("host", 1883, user="ann", password="")),
        ("mqtt://a%40b:p%2F%3A%40@host", BrokerUrl("host", 1883, user="a@b", password="p/:@")),
    ],
)
def test_reads_every_accepted_form(text: str, expected: BrokerUrl) -> None:
    """Scheme, log-in, host and port are read; the port defaults to the scheme's own."""
    assert parse_broker_url(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no scheme"),
        ("localhost", "no scheme"),
        ("localhost:1883", "no scheme"),
        ("http://host", "scheme 'http' is not known"),
        ("mqtt://", "names no host"),
        ("mqtt://:1883", "names no host"),
        ("mqtt://ho st", "spaces"),
        ("mqtt://host:0", "port 0"),
        ("mqtt://host:65536", "host or port"),
        ("mqtt://host:abc", "host or port"),
        ("mqtt://[::1", "host or port"),
        ("mqtt://host/path", "nothing may follow"),
        ("mqtt://host?x=1", "nothing may follow"),
        ("mqtt://:secret@host", "without a user"),
    ],
)
def test_refuses_with_the_reason_and_the_accepted_form(text: str, why: str) -> None:
    """An error starts with "cannot", says what is wrong, and shows the form that is accepted."""
    with pytest.raises(UsageError, match=why) as caught:
        parse_broker_url(text)
    assert str(caught.value).startswith("cannot use broker ")
    assert "write mqtt://" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["mqtt://anna:hunter2@host:x", "http://anna:hunter2@host", "mqtt://anna:hunt/er2@host"]
)
def test_an_error_never_shows_the_password(text: str) -> None:
    """A URL that is refused is quoted without its log-in."""
    with pytest.raises(UsageError) as caught:
        parse_broker_url(text)
    assert re.search("hunt|er2|anna", str(caught.value)) is None


def test_the_printed_form_hides_the_password() -> None:
    """Neither the text nor the representation of a broker shows the password."""
    broker = parse_broker_url("mqtts://anna:hunter2@host:8884")
    assert str(broker) == "mqtts://anna:***@host:8884"
    assert "hunter2" not in repr(broker)


HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,2}", fullmatch=True) | st.ip_addresses(
    v=4
).map(str)


@settings(deadline=None)  # the first call compiles; a busy machine takes its time
@given(
    host=HOSTS | st.ip_addresses(v=6).map(str),
    port=st.integers(1, 65535),
    tls=st.booleans(),
    user=st.none() | st.text(min_size=1),
    password=st.none() | st.text(),
)
def test_parsing_is_the_inverse_of_writing(
    host: str, port: int, tls: bool, user: str | None, password: str | None
) -> None:
    """Any log-in that is percent-encoded, any host and any port come back as they were."""
    login = "" if user is None else quote(user, safe="")
    login += "" if user is None or password is None else f":{quote(password, safe='')}"
    host_text = f"[{host}]" if ":" in host else host
    text = f"{'mqtts' if tls else 'mqtt'}://{login}{'@' if login else ''}{host_text}:{port}"
    expected = BrokerUrl(host, port, tls, user, password if user is not None else None)
    assert parse_broker_url(text) == expected


@settings(deadline=None)  # the first call compiles; a busy machine takes its time
@given(st.text(max_size=60) | st.text(max_size=40).map("mqtt://".__add__))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is given, the outcome is a broker or a UsageError, nothing else."""
    try:
        broker = parse_broker_url(text)
    except UsageError:
        return
    assert broker.host
    assert 1 <= broker.port <= 65535
