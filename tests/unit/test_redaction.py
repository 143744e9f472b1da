"""What is personal in a text, and what is not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agent.redaction import Redactor, is_iban, is_luhn
from contract.requests import Message, NamedSchema, Request, ResponseFormat, TextPart

REDACTOR = Redactor(names=["Kowalczyk", "blue team"], patterns=["^EMP-[0-9]{6}$"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to eva.lang+x@mail.example.org now", "write to [MAIL_1] now"),
        ("a@b.de, c@d.fr and a@b.de", "[MAIL_1], [MAIL_2] and [MAIL_1]"),
        ("pay with 4111 1111 1111 1111 please", "pay with [CARD_1] please"),
        ("4111 1111 1111 1112 is no card", "[PHONE_1] is no card"),  # and yet a long number
        ("to DE89 3704 0044 0532 0130 00 is my wish", "to [IBAN_1] is my wish"),
        ("gb82west12345698765432", "[IBAN_1]"),
        ("I am at 52.5200, 13.4050 now", "I am at [PLACE_1] now"),
        ("52° 31' 12\" N 13.40° E", "[PLACE_1] [PLACE_2]"),
        ("ping 192.168.17.20 and 2001:db8::8a2e:370:7334", "ping [IP_1] and [IP_2]"),
        ("call +49 (30) 901820-1234 or 030/90182012", "call [PHONE_1] or [PHONE_2]"),
        ("ask Dr. Lang or Mrs Ngo today", "ask Dr. [NAME_1] or Mrs [NAME_2] today"),
        ("my name is Xochitl Quispe and", "my name is [NAME_1] and"),
        ("please remind my dear Anna Schmidt of it", "please remind my dear [NAME_1] of it"),
        ("Anna's lamp", "[NAME_1] lamp"),
        ("does KOWALCZYK know the Blue Team", "does [NAME_1] know the [NAME_2]"),
        ("badge EMP-123456 opens", "badge [CUSTOM_1] opens"),
        ("call \uff10\uff13\uff10 \uff19\uff10\uff11\uff18\uff12\uff10\uff11\uff12", "call [PHONE_1]"),  # full width
        ("a\u200bnna@exam\u00adple.org", "[MAIL_1]"),  # characters that nobody sees
    ],
)
def test_what_is_personal_is_replaced(text: str, wanted: str) -> None:
    """One mark for each value, the same for the same."""
    assert REDACTOR.text(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "is the freezer too warm at -9.5 °C?",
        "set the lamp to 40 % at 12:30:45 on 2026-11-21",
        "the mark may will rose grace",
        "version 1.2.3 of std::vector",
        "EMP-12345 has a digit too few",
        "I like Paris in May",
    ],
)
def test_what_is_not_personal_stays(text: str) -> None:
    """Measurements, times, dates, versions."""
    assert REDACTOR.text(text) == text


def test_all_texts_of_a_request_are_redacted_and_nothing_else_of_it() -> None:
    """Turns in both forms, stop strings, and the words of a schema with the names of its properties."""
    schema = {"type": "object", "properties": {"Anna": {"type": "string", "enum": ["a@b.de"]}}}
    request = Request(
        messages=[Message("system", "you serve a@b.de"), Message("user", [TextPart("I am Eva Lang")])],
        stop=["c@d.de", "."],
        response_format=ResponseFormat("json_schema", NamedSchema(schema)),
        max_tokens=7,
        adapter=None,
    )
    redacted = REDACTOR.redact(request)
    assert redacted.request.turns == [("system", "you serve [MAIL_1]"), ("user", "I am [NAME_1]")]
    assert redacted.request.stops == ["[MAIL_2]", "."]
    assert redacted.request.output_schema == {
        "type": "object",
        "properties": {"[NAME_2]": {"type": "string", "enum": ["[MAIL_1]"]}},
    }
    assert (redacted.request.max_tokens, redacted.request.adapter) == (7, None)
    assert redacted.found == {"mail": 3, "name": 2}
    assert REDACTOR.redact(Request(prompt="x")).request.adapter is UNSET


@given(st.text(max_size=300), st.text(max_size=300), st.emails(domains=st.just("example.org")))
def test_a_mail_address_never_stays(before: str, after: str, mail: str) -> None:
    """Whatever stands around it, if it is apart."""
    local = mail.partition("@")[0]
    if all(char.isalnum() for char in local) and len(local) > 3:
        assert mail not in REDACTOR.text(f"{before} {mail} {after}")


@given(st.text())
def test_what_is_redacted_once_is_redacted(text: str) -> None:
    """Nothing that a rule finds is left for it, or made by it."""
    once = REDACTOR.text(text)
    assert Redactor().text(once) == Redactor().text(Redactor().text(once))


@pytest.mark.parametrize(
    "text",
    ["a" * 65_536, "1 " * 32_768, "1.2" * 20_000, "a@" * 32_768, "Mr A " * 12_000, ":" * 65_536, "Anna " * 12_000],
)
def test_no_text_takes_long(text: str) -> None:
    """64 kB of what each rule likes best. Exponential or quadratic time would be minutes."""
    begun = time.process_time()
    REDACTOR.text(text)
    assert time.process_time() - begun < 10


def test_a_pattern_that_could_take_for_ever_is_refused() -> None:
    """As with the patterns of schemas."""
    with pytest.raises(ValueError, match="ambiguous"):
        Redactor(patterns=["^(a+)+$"])


@given(st.integers(10**11, 10**17))
def test_a_wrong_digit_is_noticed(number: int) -> None:
    """By the check digit of a card, whichever digit it is."""
    whole = next(str(number) + str(last) for last in range(10) if is_luhn(str(number) + str(last)))
    for at, digit in enumerate(whole):
        assert not is_luhn(whole[:at] + str((int(digit) + 1) % 10) + whole[at + 1 :])
    assert is_iban("GB82 WEST 1234 5698 7654 32")
    assert not is_iban("GB82 WEST 1234 5698 7654 33")
