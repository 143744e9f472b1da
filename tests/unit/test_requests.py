"""Requests: any bytes become a request within all limits, or a refusal that its sender can act on."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract import limits
from contract.errors import Refused
from contract.ids import is_id
from contract.requests import Handed, Request, decode_cancel, decode_request, is_plain
from contract.status import Status
from tests.unit.hostile_json import TEXTS, values

LIMIT_S = 2.0  # for the worst payload of 256 KiB, on a busy machine; it takes 0.02 s

FIELDS = list(Request.__struct_fields__)

GOOD: dict[str, list[Any]] = {
    "id": ["a", "r-1", "0" * 63],
    "messages": [
        [{"role": "user", "content": "hi"}],
        [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "a"}]}],
    ],
    "prompt": ["hi", "🦈", "<|im_start|>"],
    "input": ["a", ["a", "b"]],
    "task": ["generate", "embed"],
    "model": ["smollm2", "smollm2@1.0"],
    "adapter": ["home@2", None],
    "activation": ["prompt", "user"],
    "max_tokens": [1, limits.MAX_TOKENS],
    "temperature": [0, 0.5, 2],
    "top_p": [0.1, 1],
    "top_k": [0, 40],
    "min_p": [0, 0.05, 1],
    "presence_penalty": [-2, 0, 2],
    "frequency_penalty": [-2, 0, 2],
    "repeat_penalty": [0.5, 1, 2],
    "seed": [-(2**63), 0, 2**63 - 1],
    "stop": ["\n", ["a", "b"], []],
    "logit_bias": [{}, {"3": -100, "17": 1.5}],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    ],
    "truncate": [True, False],
    "stream": [True, False],
    "exp": [0, 1_800_000_000_000],
    "ttl_ms": [1, limits.MAX_TTL_MS],
    "priority": [0, 9],
    "privacy": ["local", "site", "redact", "any"],
    "conversation": ["talk-1"],
    "reply_to": ["shoal/v1/home/client/c1/answer"],
    "handed": [{"client": "c1", "why": "queue"}],
}

VALID = st.fixed_dictionaries({"prompt": st.sampled_from(GOOD["prompt"])}).flatmap(
    lambda question: st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(choices)
            for name, choices in GOOD.items()
            if name not in ("prompt", "messages", "input", "task")
        },
    ).map(lambda extra: question | extra)
)


def _refusal(body: Any) -> Refused:
    """How a body is refused."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as caught:
        decode_request(payload)
    return caught.value


def _is_within_limits(request: Request) -> bool:
    """Whether msgspec, asked again, finds nothing wrong, and the question is one."""
    again = msgspec.json.decode(msgspec.json.encode(request), type=Request)
    questions = [request.messages, request.prompt, request.input]
    return again == request and sum(question is not None for question in questions) == 1


def _read_or_refused(payload: bytes) -> None:
    """Reads a payload, and checks everything that holds for any outcome."""
    started = time.monotonic()
    try:
        request = decode_request(payload)
    except Refused as no:
        assert no.status in (Status.INVALID, Status.TOO_LARGE)
        assert no.code == "payload" or no.code.partition(".")[0].partition("[")[0] in FIELDS
        assert no.message.startswith("cannot ")
        field = no.code.partition("[...")[0]
        assert field in no.message
        assert len(no.message) < 2000
        assert no.request_id is None or is_id(no.request_id)
        no.message.encode()  # no lone surrogate: it goes into an answer
    else:
        assert _is_within_limits(request)
        assert len(request.digest()) == 32
        msgspec.msgpack.encode([request.turns, request.output_schema])  # what goes to the engine
    assert time.monotonic() - started < LIMIT_S


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"{".__add__))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe{\x00}\x00")
@example(b"{\0}")
@example(b"\0")
@example(b'{"prompt":"\\ud800"}')
@example(b'{"prompt":"\xed\xa0\x80"}')
@example(b'{"prompt":"a","seed":1e999}')
@example(b'{"prompt":"a","max_tokens":-0}')
@example(b'{"prompt":"a","temperature":NaN}')
@example(b'{"prompt":"a"}{"prompt":"b"}')
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    """Whatever arrives becomes a request or a refusal, never another exception."""
    _read_or_refused(payload)


@given(values())
def test_any_json_is_read_or_refused(value: Any) -> None:
    """Any JSON value, object or not, becomes a request or a refusal."""
    _read_or_refused(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(FIELDS), values(max_leaves=6), max_size=5), st.booleans())
def test_any_values_of_the_fields_are_read_or_refused(body: dict[str, Any], with_prompt: bool) -> None:
    """Objects with the contract's own field names and any values become a request or a refusal."""
    _read_or_refused(json.dumps(body | ({"prompt": "hi"} if with_prompt else {})).encode())


@given(values(st.sampled_from(["type", "json_schema", "schema", "role", "content", "text", "items", "$ref"]) | TEXTS))
def test_any_values_of_nested_fields_are_read_or_refused(value: Any) -> None:
    """Messages, response formats and schemas of any form become a request or a refusal."""
    for body in ({"messages": value}, {"messages": [value]}, {"messages": [{"role": "user", "content": value}]}):
        _read_or_refused(json.dumps(body).encode())
    for form in (value, {"type": "json_schema", "json_schema": {"schema": value}}):
        _read_or_refused(json.dumps({"prompt": "hi", "response_format": form}).encode())


@given(VALID, st.data())
def test_a_request_with_some_bytes_changed_is_read_or_refused(body: dict[str, Any], data: st.DataObject) -> None:
    """Bytes replaced, removed and put in at any place of a valid request give a request or a refusal."""
    payload = bytearray(json.dumps(body).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        payload = payload or bytearray(b"{")
    _read_or_refused(bytes(payload))


@given(VALID)
def test_a_valid_request_is_read_as_it_was_sent(body: dict[str, Any]) -> None:
    """Every field with an accepted value is taken; what is not given has the contract's default."""
    request = decode_request(json.dumps(body).encode())
    default = Request(prompt=body["prompt"])
    for name in FIELDS:
        wanted = body[name] if name in body else getattr(default, name)
        if name == "logit_bias" and wanted is not None:
            wanted = {int(token): bias for token, bias in wanted.items()}
        if name == "handed" and wanted is not None:
            wanted = msgspec.convert(wanted, Handed)
        if name == "response_format" and wanted is not None:
            assert request.response_format is not None
            assert request.response_format.type == msgspec.convert(wanted, dict[str, Any])["type"]
            continue
        assert getattr(request, name) == wanted, name


def test_every_field_is_tried() -> None:
    """The table of accepted values above names every field of a request."""
    assert set(GOOD) == set(FIELDS)


def test_defaults_are_the_contracts() -> None:
    """What CONTRACT.md promises for fields that are absent."""
    request = decode_request(b'{"prompt":"hi"}')
    assert (request.task, request.stream, request.priority) == ("generate", False, 4)
    assert request.adapter is msgspec.UNSET
    assert decode_request(b'{"prompt":"hi","adapter":null}').adapter is None
    assert (request.id, request.exp, request.ttl_ms, request.privacy) == (None, None, None, None)


def test_unknown_fields_are_ignored() -> None:
    """A request with fields of a later version, however deep, is still answered."""
    body = {"prompt": "hi", "thinking": {"budget": [1, {"x": None}]}, "": 3}
    assert decode_request(json.dumps(body).encode()) == Request(prompt="hi")


ID_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
# Field, wrong value, and what the message must hold besides: how the value is shown, and what is accepted.
WRONG: list[tuple[str, Any, str, str]] = [
    ("id", 3, "3", "`str | null`"),
    ("id", "A b", '"A b"', ID_RULE),
    ("id", "a\n", '"a\\n"', ID_RULE),
    ("id", "", '""', ID_RULE),
    ("id", "x" * 64, "xxx", ID_RULE),
    ("messages", "hi", '"hi"', "`array | null`"),
    ("messages", [], "[]", "length >= 1"),
    ("messages", [{"role": "user", "content": "a"}] * 257, "[{", "length <= 256"),
    ("messages[0]", [3], "3", "`object`"),
    ("messages[0]", [{"role": "user"}], '{"role":"user"}', "`content`"),
    ("messages[1].role", [{"role": "user", "content": "a"}, {"role": "root", "content": "a"}], '"root"',
     "one of system, user, assistant, tool"),
    ("messages[0].content", [{"role": "user", "content": 3}], "3", "`str | array`"),
    ("messages[0].content[0].type", [{"role": "user", "content": [{"type": "image_url"}]}], '"image_url"', "text"),
    ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text", "text": 1}]}], "1", "`str`"),
    ("prompt", 3, "3", "`str | null`"),
    ("prompt", "", '""', "length >= 1"),
    ("prompt", ["a"], '["a"]', "`str | null`"),
    ("input", 3, "3", "`str | array | null`"),
    ("input[1]", ["a", 3], "3", "`str`"),
    ("input", ["a"] * 257, "[", "length <= 256"),
    ("task", "paint", '"paint"', "one of generate, embed"),
    ("task", None, "", "`null`"),
    ("model", 3, "3", "`str | null`"),
    ("model", "My Model", '"My Model"', "`name@version`"),
    ("model", "a@b@c", '"a@b@c"', "`name@version`"),
    ("model", "a\n", '"a\\n"', "`name@version`"),
    ("adapter", 3, "3", "`str | null`"),
    ("adapter", "../x", '"../x"', "`name@version`"),
    ("activation", "late", '"late"', "one of prompt, user"),
    ("max_tokens", 0, "0", ">= 1"),
    ("max_tokens", 10**9, "1000000000", "<= 131072"),
    ("max_tokens", "5", '"5"', "`int | null`"),
    ("max_tokens", 1.5, "1.5", "`int | null`"),
    ("max_tokens", True, "true", "`int | null`"),
    ("temperature", -0.1, "-0.1", ">= 0.0"),
    ("temperature", 2.1, "2.1", "<= 2.0"),
    ("temperature", "hot", '"hot"', "`float | null`"),
    ("top_p", 0, "0", "> 0.0"),
    ("top_p", 1.01, "1.01", "<= 1.0"),
    ("top_k", -1, "-1", ">= 0"),
    ("top_k", 10**7, "10000000", "<= 1000000"),
    ("min_p", -0.1, "-0.1", ">= 0.0"),
    ("presence_penalty", 2.1, "2.1", "<= 2.0"),
    ("frequency_penalty", -2.1, "-2.1", ">= -2.0"),
    ("repeat_penalty", 0.4, "0.4", ">= 0.5"),
    ("seed", 2**63, "9223372036854775808", "<= 9223372036854775807"),
    ("seed", -(2**63) - 1, "-9223372036854775809", ">= -9223372036854775808"),
    ("stop", 3, "3", "`str | array | null`"),
    ("stop", "", '""', "length >= 1"),
    ("stop", "x" * 257, "xxx", "length <= 256"),
    ("stop", ["a"] * 17, "[", "length <= 16"),
    ("stop[1]", ["a", ""], '""', "length >= 1"),
    ("logit_bias", [1], "[1]", "`object | null`"),
    ("logit_bias", {"x": 1}, '{"x":1}', "as a key, expected `int`"),
    ("logit_bias", {"-1": 1}, '{"-1":1}', "as a key, expected `int` >= 0"),
    ("logit_bias", {str(2**31): 1}, "2147483648", "as a key, expected `int` <= 2147483647"),
    ("logit_bias[...]", {"1": 101}, '{"1":101}', "<= 100.0"),
    ("logit_bias[...]", {"1": "a"}, '{"1":"a"}', "`float`"),
    ("logit_bias", {str(n): 0 for n in range(1025)}, "{", "length <= 1024"),
    ("response_format", "json", '"json"', "`object | null`"),
    ("response_format", {}, "{}", "`type`"),
    ("response_format.type", {"type": "xml"}, '"xml"', "one of text, json_object, json_schema"),
    ("response_format.json_schema", {"type": "json_schema"}, "", "'schema'"),
    ("response_format.json_schema", {"type": "json_schema", "json_schema": {}}, "{}", "`schema`"),
    ("response_format.json_schema.schema", {"type": "json_schema", "json_schema": {"schema": 3}}, "3", "`object`"),
    ("response_format.json_schema.schema", {"type": "json_schema", "json_schema": {"schema": {"type": "text"}}},
     "'text'", "one of array, boolean, integer, null, number, object, string"),
    ("truncate", "yes", '"yes"', "`bool`"),
    ("stream", "yes", '"yes"', "`bool`"),
    ("stream", 1, "1", "`bool`"),
    ("exp", -1, "-1", ">= 0"),
    ("exp", 2**53 + 1, "9007199254740993", "<= 9007199254740992"),
    ("exp", "soon", '"soon"', "`int | null`"),
    ("ttl_ms", 0, "0", ">= 1"),
    ("ttl_ms", limits.MAX_TTL_MS + 1, "86400001", "<= 86400000"),
    ("priority", 10, "10", "<= 9"),
    ("priority", -1, "-1", ">= 0"),
    ("priority", None, "", "`null`"),
    ("privacy", "public", '"public"', "one of local, site, redact, any"),
    ("conversation", "a/b", '"a/b"', ID_RULE),
    ("reply_to", "", '""', "length >= 1"),
    ("reply_to", "x" * 513, "xxx", "length <= 512"),
    ("reply_to", 3, "3", "`str | null`"),
    ("handed", {"why": "queue"}, '{"why"', "`client`"),
    ("handed.client", {"client": "A", "why": "queue"}, '"A"', ID_RULE),
    ("handed.why", {"client": "a", "why": "fun"}, '"fun"', "one of capability, context, queue, health, confidence"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "shown", "accepted"), WRONG)
def test_an_error_names_field_value_and_what_is_accepted(field: str, value: Any, shown: str, accepted: str) -> None:
    """A wrong value is refused with 400; code and message name the field, and the message the value and the rule."""
    name = field.partition(".")[0].partition("[")[0]
    body = {"id": "r1", name: value}
    if name not in ("messages", "prompt", "input"):
        body["prompt"] = "hi"
    no = _refusal(body)
    assert (no.status, no.code) == (Status.INVALID, field)
    assert no.message.startswith("cannot ")
    assert field in no.message
    assert shown in no.message
    assert accepted in no.message


def test_every_field_has_a_wrong_value() -> None:
    """The table above tries each field of the contract."""
    assert {field.partition(".")[0].partition("[")[0] for field, *_ in WRONG} == set(FIELDS)


def test_a_refusal_carries_the_id_when_it_can_be_read() -> None:
    """The sender finds the refusal under its own id; an id that is none is not used."""
    assert _refusal({"id": "r1", "prompt": 3}).request_id == "r1"
    assert _refusal({"id": "r1"}).request_id == "r1"
    assert _refusal({"id": "R1", "prompt": 3}).request_id is None
    assert _refusal({"id": ["r1"], "prompt": "x"}).request_id is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "messages"),
        ({"prompt": None}, "messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"prompt": "a", "input": "b"}, "messages"),
        ({"input": "a"}, "input"),
        ({"task": "embed", "prompt": "a"}, "input"),
    ],
)
def test_a_question_is_asked_in_exactly_one_way(body: dict[str, Any], code: str) -> None:
    """None or two of messages, prompt and input, or one that the task does not take, is refused and says so."""
    no = _refusal(body)
    assert (no.status, no.code) == (Status.INVALID, code)
    for name, value in body.items():
        if value is not None and name != "task":
            assert name in no.message


def test_what_a_sender_writes_never_becomes_the_code() -> None:
    """A value that imitates the end of a complaint does not decide which field is blamed: codes are logged."""
    evil = "x` - at `$.secret"
    no = _refusal({"messages": [{"role": "user", "content": [{"type": evil, "text": "a"}]}]})
    assert no.code == "messages[0].content[0].type"
    assert evil in no.message


def test_only_the_status_and_the_code_stand_in_the_exception() -> None:
    """A traceback shows no text of the sender."""
    no = _refusal({"prompt": "secret", "temperature": "secret"})
    assert "secret" in no.message
    assert "secret" not in str(no)
    assert "secret" not in repr(no)


def test_a_payload_of_the_largest_size_is_read() -> None:
    """256 KiB are accepted, in both forms."""
    text = "x" * (limits.MAX_PAYLOAD_BYTES - len(b'{"prompt":""}'))
    payload = json.dumps({"prompt": text}, separators=(",", ":")).encode()
    assert len(payload) == limits.MAX_PAYLOAD_BYTES
    assert decode_request(payload).prompt == text
    assert decode_request(b"x" * limits.MAX_PAYLOAD_BYTES).prompt == "x" * limits.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize("head", [b"", b"{", b'{"prompt":"', b"\xff", b"\xef\xbb\xbf{"])
def test_a_payload_over_the_limit_is_too_large(head: bytes) -> None:
    """One byte more is refused with 413 whatever it holds; the message says both sizes."""
    no = _refusal(head + b"x" * (limits.MAX_PAYLOAD_BYTES + 1 - len(head)))
    assert (no.status, no.code) == (Status.TOO_LARGE, "payload")
    assert str(limits.MAX_PAYLOAD_BYTES + 1) in no.message
    assert str(limits.MAX_PAYLOAD_BYTES) in no.message


@pytest.mark.parametrize(
    "payload",
    [
        b"{" + b'"a":{' * 20_000,
        b'{"prompt":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt":"a","x":' + b'{"":' * 50_000,
        b'{"prompt":"a","seed":' + b"9" * 200_000 + b"}",
        b'{"prompt":"a","temperature":0.' + b"0" * 200_000 + b"1}",
        b'{"prompt":"a","temperature":1e' + b"9" * 100 + b"}",
        b'{"prompt":"' + b"\\u0000" * 40_000 + b'"}',
        b'{"prompt":"' + b"\xff" * 200_000 + b'"}',
        b'{"prompt":"' + b"\\ud83e" * 30_000 + b'"}',
        b'{"stop":' + b"[" + b'"a",' * 50_000 + b'"a"]}',
        b'{"logit_bias":{' + b",".join(b'"%d":0' % n for n in range(20_000)) + b"}}",
        b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * 8000) + b"]}",
        b'{"prompt":1' + b',"prompt":"a"' * 15_000 + b"}",
        b'{"prompt":"a","response_format":{"type":"json_schema","json_schema":{"schema":'
        + b'{"anyOf":[' * 900 + b"{}" + b"]}" * 900 + b"}}}",
        b'{"prompt":"a","response_format":{"type":"json_schema","json_schema":{"schema":{"enum":['
        + b"1," * 100_000 + b"1]}}}}",
    ],
    ids=range(15),
)  # fmt: skip
def test_a_large_hostile_payload_is_read_or_refused_at_once(payload: bytes) -> None:
    """Depth, huge numbers, endless lists and escapes cost no more than their bytes."""
    _read_or_refused(payload[: limits.MAX_PAYLOAD_BYTES])


def test_nesting_that_is_too_deep_is_refused_as_such() -> None:
    """The message says what is wrong: the depth."""
    no = _refusal(b'{"prompt":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert (no.status, no.code) == (Status.INVALID, "payload")
    assert "nested too deeply" in no.message


@pytest.mark.parametrize("payload", [b"caf\xe9", b'{"prompt":"caf\xe9"}', b'{"prompt":"a","id":"\xff"}'])
def test_bytes_that_are_not_utf8_are_refused_with_their_place(payload: bytes) -> None:
    """The message says at which byte of the payload UTF-8 ends."""
    no = _refusal(payload)
    place = next(at for at, byte in enumerate(payload) if byte > 127)
    assert (no.status, no.code) == (Status.INVALID, "payload")
    assert f"byte {place} " in no.message


def test_the_last_of_duplicate_keys_holds() -> None:
    """As in Python and JavaScript; no value is mixed from two."""
    assert decode_request(b'{"prompt":"a","prompt":"b"}').prompt == "b"


@pytest.mark.parametrize(
    "text", ["is the freezer too warm at -9?", "[1,2]", '"hi"', "42", "null", "  hi ", "a\0b", "🦈"]
)
def test_a_payload_that_is_no_object_is_a_plain_prompt(text: str) -> None:
    """Text in any form, also other JSON than an object, is the prompt, as it is."""
    assert is_plain(text.encode())
    assert decode_request(text.encode()) == Request(prompt=text)


@pytest.mark.parametrize("payload", [b"", b" \r\n\t", "\u3000".encode(), b"\xef\xbb\xbf"])
def test_an_empty_plain_prompt_is_refused(payload: bytes) -> None:
    """Nothing but white space is no question."""
    no = _refusal(payload)
    assert (no.status, no.code) == (Status.INVALID, "prompt")


@pytest.mark.parametrize("head", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_both_forms_are_told_apart_behind_white_space_and_a_byte_order_mark(head: bytes) -> None:
    """Who sends an object gets JSON and who sends text gets text, also with a mark that an editor put there."""
    assert not is_plain(head + b'{"prompt":"hi"}')
    assert decode_request(head + b'{"prompt":"hi"}') == Request(prompt="hi")
    assert is_plain(head + b"hi")


@given(VALID, st.randoms(use_true_random=False))
def test_a_retry_has_the_same_digest(body: dict[str, Any], random: Any) -> None:
    """Other order of keys, other white space, another id, deadline and reply topic: still the same question."""
    names = list(body)
    random.shuffle(names)
    again = {name: body[name] for name in names if name not in ("id", "exp", "ttl_ms", "reply_to", "handed")}
    again |= {"id": "other", "exp": 1_900_000_000_000, "reply_to": "shoal/v1/home/client/c1/x", "x-new": 1}
    first = decode_request(json.dumps(body).encode())
    second = decode_request(json.dumps(again, indent=3).encode())
    assert first.digest() == second.digest()


# Two values that mean different questions, for every field that is part of the question.
CHANGES: dict[str, tuple[Any, Any]] = {
    "messages": ([{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}]),
    "prompt": ("a", "b"),
    "model": ("m", "m@1"),
    "adapter": ("a", None),
    "activation": ("prompt", "user"),
    "max_tokens": (1, 2),
    "temperature": (0, 1),
    "top_p": (1, 0.5),
    "top_k": (1, 2),
    "min_p": (0, 0.1),
    "presence_penalty": (0, 1),
    "frequency_penalty": (0, 1),
    "repeat_penalty": (1, 1.1),
    "seed": (1, 2),
    "stop": ("a", "b"),
    "logit_bias": ({"1": 1}, {"1": 2}),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "truncate": (True, False),
    "stream": (True, False),
    "priority": (1, 2),
    "privacy": ("local", "any"),
    "conversation": ("a", "b"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_another_question_has_another_digest(field: str) -> None:
    """A change of any field that belongs to the question is a conflict for the same id, and so is leaving it out."""
    base: dict[str, Any] = {} if field in ("messages", "prompt") else {"prompt": "hi"}
    bodies = [base | {field: value} for value in CHANGES[field]] + ([base] if base else [])
    digests = [decode_request(json.dumps(body).encode()).digest() for body in bodies]
    if field in ("stream", "truncate"):  # their second value is the default
        digests.pop()
    assert len(set(digests)) == len(digests)


def test_every_field_is_part_of_the_question_or_of_the_delivery() -> None:
    """A new field must be put on one side."""
    assert set(CHANGES) | {"id", "exp", "ttl_ms", "reply_to", "handed", "input", "task"} == set(FIELDS)


def test_the_texts_of_a_message_are_joined() -> None:
    """Content in parts is one text, as in OpenAI's API."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}
    assert decode_request(json.dumps(body).encode()).turns == [("user", "ab"), ("assistant", "c")]
    assert Request(prompt="hi").turns == [("user", "hi")]


def test_stops_and_the_schema_have_one_form() -> None:
    """One stop string is a list of one; `json_object` is the schema of any object; text has none."""

    def read(**fields: Any) -> Request:
        return decode_request(json.dumps({"prompt": "a"} | fields).encode())

    assert read().stops == []
    assert read(stop="x").stops == ["x"]
    assert read(stop=["x", "y"]).stops == ["x", "y"]
    assert read().output_schema is None
    assert read(response_format={"type": "text"}).output_schema is None
    assert read(response_format={"type": "json_object"}).output_schema == {"type": "object"}
    schema = {"type": "integer"}
    form = {"type": "json_schema", "json_schema": {"schema": schema, "strict": True, "name": "x"}}
    assert read(response_format=form).output_schema == schema


@given(st.binary(max_size=60) | values(max_leaves=4).map(lambda value: json.dumps({"id": value}).encode()))
@example(b'{"id":"a\\n"}')
@example(b"{}")
def test_any_cancel_is_read_or_refused(payload: bytes) -> None:
    """A cancel message names an id or is refused with 400."""
    try:
        assert is_id(decode_cancel(payload).id)
    except Refused as no:
        assert no.status is Status.INVALID


def test_an_endless_cancel_is_refused() -> None:
    """A cancel message of any size is an error of its sender, nothing else."""
    with pytest.raises(Refused):
        decode_cancel(b'{"id":"' + b"a" * (2 * limits.MAX_PAYLOAD_BYTES))
