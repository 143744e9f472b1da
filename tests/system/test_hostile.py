"""Input that is wrong, huge or malicious: each gets its answer, and nothing dies, leaks or stays stuck."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.system.conftest import ENDLESS, Lab

CANARY = "zanzibar7391"  # in every prompt here; never in a log, a status or an event
ANSWER_CANARY = "quokka5527"  # what the model is made to say
LIMIT = 256 * 1024


@pytest.fixture(scope="module", autouse=True)
def survivor(agent: AgentProcess) -> Iterator[None]:
    """After everything in this file the same two processes serve, and nobody's words were written down."""
    engine = agent.wait_engine()
    daemon = agent.process.pid if agent.process else 0
    watcher = IotClient(agent.port, client="watcher")
    yield
    watcher.ask({"id": "alive", "prompt": "Name a colour.", "max_tokens": 2})
    assert watcher.final("alive")["status"] == 200
    status = agent.peek()
    assert status is not None
    assert (status["pid"], status["engine"]["pid"], status["engine"]["restarts"]) == (daemon, engine, 0)
    assert (status["requests"]["running"], status["requests"]["waiting"]) == (0, 0)
    assert agent.faults() == []
    watcher.settle()
    events = [m.payload.decode() for m in watcher.seen if "/evt/" in m.topic or m.topic.endswith(("/card", "/status"))]
    for text in (agent.logs(), json.dumps(status), *events):
        assert CANARY not in text
        assert ANSWER_CANARY not in text
    watcher.close()


def body(**fields: Any) -> dict[str, Any]:
    """A request that is in order, but for `fields`."""
    return {"id": "bad", "prompt": f"The word is {CANARY}.", "max_tokens": 2, **fields}


def schema(content: Any) -> dict[str, Any]:
    """A response format with this schema."""
    return {"type": "json_schema", "json_schema": {"schema": content}}


def nested(depth: int) -> dict[str, Any]:
    """A schema of objects in objects."""
    made: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        made = {"type": "object", "properties": {"a": made}}
    return made


BAD_FIELDS: dict[str, tuple[dict[str, Any], int, str]] = {
    "max_tokens is 0": ({"max_tokens": 0}, 400, "max_tokens"),
    "max_tokens is 10^9": ({"max_tokens": 10**9}, 400, "max_tokens"),
    "max_tokens is 10^30": ({"max_tokens": 10**30}, 400, "max_tokens"),
    "max_tokens is text": ({"max_tokens": "5"}, 400, "max_tokens"),
    "max_tokens is a fraction": ({"max_tokens": 1.5}, 400, "max_tokens"),
    "temperature is negative": ({"temperature": -0.1}, 400, "temperature"),
    "temperature is 99": ({"temperature": 99}, 400, "temperature"),
    "top_p is 0": ({"top_p": 0}, 400, "top_p"),
    "top_k is negative": ({"top_k": -1}, 400, "top_k"),
    "priority is 10": ({"priority": 10}, 400, "priority"),
    "ttl is 0": ({"ttl_ms": 0}, 400, "ttl_ms"),
    "ttl is a year": ({"ttl_ms": 365 * 86_400_000}, 400, "ttl_ms"),
    "deadline in the year 9999": ({"exp": 253_370_764_800_000}, 400, "exp"),
    "stream is text": ({"stream": "yes"}, 400, "stream"),
    "seed beyond 64 bits": ({"seed": 2**64}, 400, "seed"),
    "stop is empty": ({"stop": ""}, 400, "stop"),
    "17 stops": ({"stop": ["x"] * 17}, 400, "stop"),
    "bias of 101": ({"logit_bias": {"5": 101}}, 400, "logit_bias"),
    "bias of a word": ({"logit_bias": {"yes": 1}}, 400, "logit_bias"),
    "bias beyond the vocabulary": ({"logit_bias": {"49152": 1}}, 400, "logit_bias"),
    "bias of the last 32-bit token": ({"logit_bias": {"2147483647": 1}}, 400, "logit_bias"),
    "prompt is a list": ({"prompt": [CANARY]}, 400, "prompt"),
    "prompt is empty": ({"prompt": ""}, 400, "prompt"),
    "no prompt": ({"prompt": None}, 400, "messages"),
    "prompt and messages": ({"messages": [{"role": "user", "content": CANARY}]}, 400, "messages"),
    "no messages": ({"prompt": None, "messages": []}, 400, "messages"),
    "257 messages": ({"prompt": None, "messages": [{"role": "user", "content": "a"}] * 257}, 400, "messages"),
    "unknown role": ({"prompt": None, "messages": [{"role": "root", "content": CANARY}]}, 400, "messages[0].role"),
    "no content": ({"prompt": None, "messages": [{"role": "user"}]}, 400, "messages[0]"),
    "picture": (
        {"prompt": None, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400, "messages[0].content[0].type",
    ),
    "unknown task": ({"task": "paint"}, 400, "task"),
    "embed is not here": ({"prompt": None, "input": CANARY, "task": "embed"}, 400, "task"),
    "unknown privacy": ({"privacy": "none"}, 400, "privacy"),
    "model name with a path": ({"model": "../../etc/passwd"}, 400, "model"),
    "unknown model": ({"model": "gpt-9"}, 404, "model"),
    "id in upper case": ({"id": "BAD"}, 400, "id"),
    "id with a slash": ({"id": "a/b"}, 400, "id"),
    "id is a wildcard": ({"id": "+"}, 400, "id"),
    "id is empty": ({"id": ""}, 400, "id"),
    "id is too long": ({"id": "a" * 64}, 400, "id"),
    "id is a number": ({"id": 5}, 400, "id"),
    "id ends with a newline": ({"id": "bad\n"}, 400, "id"),
    "prompt beyond the context": ({"prompt": f"{CANARY} " * 300}, 413, "messages"),
    "unknown format": ({"response_format": {"type": "xml"}}, 400, "response_format.type"),
    "json_schema without one": ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema"),
}  # fmt: skip

BAD_SCHEMAS: dict[str, Any] = {
    "no schema type": {"type": "color"},
    "type is a number": {"type": 5},
    "properties is a list": {"type": "object", "properties": ["a"]},
    "schema in text": {"properties": {"a": "boolean"}},
    "300 deep": nested(300),
    "remote reference": {"$ref": "http://127.0.0.1:9/schema.json"},
    "remote reference where few look": {"type": "object", "propertyNames": {"$ref": "https://example.com/x"}},
    "remote dynamic reference": {"$dynamicRef": "https://example.com/x#y"},
    "reference to a file": {"$ref": "file:///etc/passwd"},
    "reference to nothing": {"$ref": "#/$defs/none"},
    "reference to itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "lookahead": {"type": "string", "pattern": "^(?=a)b$"},
    "pattern without anchors": {"type": "string", "pattern": "a"},
    "pattern is no pattern": {"type": "string", "pattern": "^($"},
    "pattern properties": {"type": "object", "patternProperties": {"^(a+)+$": {"type": "string"}}},
    "grammar of 10^7 symbols": {"type": "string", "pattern": "^((a{0,250}){0,250}){0,250}$"},
    "grammar of 10^5 symbols": {"type": "string", "pattern": "^a{0,100000}$"},
    "slow grammar": {"type": "string", "pattern": "^(a?){100}$"},
    "pattern that only a check could enforce": {"enum": ["a" * 40 + "!"], "pattern": "^(a+)+$"},
    "a million items": {"type": "array", "items": {"type": "boolean"}, "minItems": 10**6},
    "nested repetition": {
        "type": "array", "maxItems": 256, "items": {
            "type": "array", "maxItems": 256, "items": {"type": "array", "maxItems": 256, "items": {"type": "boolean"}},
        },
    },
    "2000 subschemas": {"anyOf": [{"const": number} for number in range(2000)]},
    "integer of 70 bits": {"const": 2**70},
    "integer of 70 bits as a bound": {"type": "integer", "minimum": 2**70},
    "negative length": {"type": "string", "minLength": -1},
    "length is text": {"type": "string", "minLength": "5"},
    "multiple of 0": {"type": "integer", "multipleOf": 0},
    "empty choice": {"enum": []},
}  # fmt: skip

HOSTILE_TOPICS = [
    "shoal/v1/home/client/{other}/rx/x/final",
    "shoal/v1/home/client/{me}",
    "shoal/v1/home/client/{me}/",
    "shoal/v1/home/client/{me}/+",
    "shoal/v1/home/client/{me}/#",
    "shoal/v1/home/client/{me}/a//b",
    "shoal/v1/home/client/{me}/a\u0000b",
    "shoal/v1/home/client/{me}/a\nb",
    "shoal/v1/home/client/{me}x/a",
    "shoal/v1/home/client/{other}/../{me}/a",
    "shoal/v1/home/node/n1/status",
    "shoal/v1/home/node/n1/req/{other}",
    "shoal/v1/away/client/{me}/a",
    "$SYS/broker/x",
    "$share/x/shoal/v1/home/client/{me}/a",
    "/shoal/v1/home/client/{me}/a",
    "client/{me}/a",
    "#",
    " ",
]

PAYLOADS: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "white space": (b" \r\n\t ", 400),
    "not UTF-8": (CANARY.encode() + b"\xff\xfe", 400),
    "half a character": (CANARY.encode() + b"\xe2\x82", 400),
    "UTF-16": (CANARY.encode("utf-16"), 400),
    "a byte over the limit": (CANARY.encode() + b"a" * (LIMIT + 1 - len(CANARY)), 413),
    "all the limit allows": (CANARY.encode() + b"a" * (LIMIT - len(CANARY)), 413),
    "2 MB that are not UTF-8": (b"\xff" * 2_000_000, 413),
    "256 kB of spaces and a word": (b" " * (LIMIT - len(CANARY)) + CANARY.encode(), 413),
    "256 kB of digits": (b"7" * LIMIT, 413),
    "256 kB of combining marks": (b"e" + "\u0301".encode() * ((LIMIT - 1) // 2), 413),
    "20,000 control tokens": (b"<|im_start|>" * 20_000, 413),
    "20,000 NUL bytes": (b"a\x00" * 20_000, 413),
}

BROKEN_JSON: dict[str, bytes] = {
    "cut off": b'{"id": "bad", "prompt": "' + CANARY.encode(),
    "100,000 levels of lists": b'{"prompt": ' + b"[" * 100_000,
    "100,000 levels, closed": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 levels of objects": b'{"a":' * 50_000,
    "two objects": b'{"prompt": "a"} {"prompt": "b"}',
    "not UTF-8 inside": b'{"prompt": "' + CANARY.encode() + b'\xff"}',
    "half a surrogate": b'{"prompt": "' + CANARY.encode() + b' \\ud800"}',
    "no quotes": b"{prompt: " + CANARY.encode() + b"}",
    "a comma too many": b'{"prompt": "a",}',
    "a number that never ends": b'{"max_tokens": ' + b"9" * 200_000 + b', "prompt": "a"}',
    "an exponent of 999999": b'{"temperature": 1e999999, "prompt": "a"}',
    "not a number": b'{"temperature": NaN, "prompt": "a"}',
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_field_is_named_in_the_answer(client: IotClient, name: str) -> None:
    """The status is right, `code` is the field, and the message says what cannot be done."""
    fields, status, code = BAD_FIELDS[name]
    client.ask(body(**fields))
    final = client.any_final()
    assert (final["status"], final["error"]["code"].partition("[")[0]) == (status, code.partition("[")[0])
    assert final["error"]["message"].startswith("cannot ")
    assert final["id"] == "bad" or "id" in fields


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_bad_schema_is_400(client: IotClient, name: str) -> None:
    """A schema that is none, that costs too much or that cannot be enforced is refused before it does harm."""
    client.ask(body(response_format=schema(BAD_SCHEMAS[name])))
    final = client.final("bad")
    assert (final["status"], final["error"]["code"]) == (400, "response_format.json_schema.schema")
    assert final["error"]["message"].startswith("cannot accept response_format.json_schema.schema: ")


def test_schema_never_makes_the_node_fetch_anything(client: IotClient) -> None:
    """A reference in a place that is not looked at is not followed either."""
    asked: list[str] = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            asked.append(self.path)
            self.send_error(404)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/x"
    places: list[dict[str, Any]] = [
        {"$schema": url, "type": "boolean"},
        {"$id": url, "type": "boolean"},
        {"type": "object", "dependentRequired": {"$ref": [url]}, "dependencies": {"a": {"$ref": url}}},
        {"type": "boolean", "$recursiveRef": url, "$anchor": "a", "additionalItems": {"$ref": url}},
        {"enum": [{"$ref": url}]},
    ]
    for number, place in enumerate(places):
        client.ask(body(id=f"f{number}", max_tokens=40, response_format=schema(place)))
    found = [client.final(f"f{number}")["status"] for number in range(len(places))]
    server.shutdown()
    server.server_close()
    assert set(found) <= {200, 400, 422}
    assert asked == []


@pytest.mark.parametrize(
    ("topic", "way"),
    [(topic, "in the body") for topic in HOSTILE_TOPICS]
    # The broker itself refuses wildcards and control characters in a property.
    + [(topic, "as a property") for topic in HOSTILE_TOPICS if not any(c in topic for c in "+#\u0000\n")],
)
def test_hostile_reply_topic_is_403(client: IotClient, topic: str, way: str) -> None:
    """An answer goes below the sender's own topics or nowhere; the refusal comes on the topic that is always right."""
    spy = IotClient(client.port, client="+")
    target = topic.format(me=client.client, other="victim")
    if way == "in the body":
        client.ask(body(reply_to=target))
    else:
        client.ask(body(), ResponseTopic=target)
    final = client.final("bad")
    assert (final["status"], final["error"]["code"]) == (403, "reply_to")
    spy.settle()
    assert [m.topic for m in spy.seen if "/client/" in m.topic and "mark-" not in m.topic] == [
        f"shoal/v1/home/client/{client.client}/rx/bad/final"
    ]
    spy.close()


def test_hostile_reply_topic_of_a_plain_prompt_is_403(client: IotClient) -> None:
    """Plain prompts can carry a response topic too."""
    client.ask(CANARY, ResponseTopic="shoal/v1/home/node/n1/status")
    assert client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error 403: cannot ")


@pytest.mark.parametrize("name", PAYLOADS)
def test_bad_plain_prompt_gets_a_plain_error(client: IotClient, name: str) -> None:
    """`error <status>: …` on the answer topic."""
    payload, status = PAYLOADS[name]
    client.ask(payload)
    answer = client.wait(lambda m: m.topic.endswith("/answer")).payload
    assert answer.startswith(f"error {status}: cannot ".encode())
    assert CANARY.encode() not in answer


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_broken_json_is_answered_both_ways(client: IotClient, name: str) -> None:
    """Whoever sent it may listen for text or for JSON, so both come."""
    client.ask(BROKEN_JSON[name], CorrelationData=b"tag")
    final = client.wait(lambda m: m.topic.endswith("/final"))
    assert final.json["status"] == 400
    assert final.json["id"] == "tag"
    if final.json["error"]["code"] == "payload":
        assert client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error 400: cannot ")


def test_json_object_over_the_limit_is_413(client: IotClient) -> None:
    """One byte more than 256 kB is refused unread."""
    frame = len(json.dumps(body(prompt="")))
    client.ask(json.dumps(body(prompt="a" * (LIMIT + 1 - frame))))
    assert client.any_final()["status"] == 413
    client.ask(json.dumps(body(prompt="a" * (LIMIT - frame))))
    final = client.final("bad")
    assert (final["status"], final["error"]["code"]) == (413, "messages")


def test_json_that_is_no_object_is_a_prompt(client: IotClient) -> None:
    """Only an object is meant as a request."""
    for payload in (b"[1, 2]", b'"hello"', b"null", b"12"):
        client.seen.clear()
        client.ask(payload)
        assert not client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error")


def test_nul_bytes_are_text(client: IotClient) -> None:
    """They neither end a prompt nor reach a file name."""
    client.ask(body(prompt=f"a\u0000b {CANARY}", stop=["\u0000"]))
    assert client.final("bad")["status"] == 200


def test_answers_are_not_written_down_either(client: IotClient) -> None:
    """The log, status and events do not hold what the model said; `survivor` looks for it."""
    client.ask(body(max_tokens=20, stream=True, response_format=schema({"enum": [ANSWER_CANARY]})))
    assert ANSWER_CANARY in client.final("bad")["text"]


@pytest.mark.parametrize(
    "topic",
    [
        "node/n1/req/UPPER", "node/n1/req/", "node/n1/req/a b", "node/n1/req/-a", "node/n1/req/" + "a" * 64,
        "node/n1/req/x/y", "node/n1/req", "node/n1/cancel/UPPER", "node/nobody/req/{me}", "pool/other/req/{me}",
        "node/n1/cmd", "node/n1/desired", "node//req/{me}",
    ],
)  # fmt: skip
def test_request_on_a_wrong_topic_goes_nowhere(client: IotClient, topic: str) -> None:
    """No id, no sender, no answer; and the next message is handled."""
    spy = IotClient(client.port, client="+")
    client.publish(topic.format(me=client.client), json.dumps(body()))
    client.ask({"id": "next", "prompt": "Name a colour.", "max_tokens": 1})
    assert client.final("next")["status"] == 200
    spy.settle()
    assert {m.topic for m in spy.seen if "/client/" in m.topic and "mark-" not in m.topic} == {
        f"shoal/v1/home/client/{client.client}/rx/next/final"
    }
    spy.close()


@pytest.mark.parametrize(
    "payload",
    [b"", b"bad", b"{", b"\xff", b"[]", b"null", b'{"id": 5}', b'{"id": "A/B"}', b"{}", b"[" * 200_000, b"a" * 400_000],
    ids=lambda p: repr(p[:12]),
)
def test_bad_cancel_does_nothing(client: IotClient, payload: bytes) -> None:
    """Nobody waits for an answer to a cancel; the request that runs goes on."""
    client.ask(body(max_tokens=30, stream=True, **ENDLESS))
    client.wait(lambda m: m.topic.endswith("/delta") and m.json["seq"] == 1)
    client.publish(f"node/n1/cancel/{client.client}", payload)
    final = client.final("bad")
    assert (final["status"], final["usage"]["completion_tokens"]) == (200, 30)


def test_retained_request_is_not_answered_again(lab: Lab) -> None:
    """A request that somebody retained would come back at every connection; it is ignored then."""
    agent = lab.agent()
    client = lab.client(agent)
    topic = f"node/{agent.node}/req/{client.client}"
    client.publish(topic, json.dumps(body(id="kept")), retain=True)
    agent.start()
    agent.wait_online(client)
    client.publish(topic, b"", retain=True)  # the broker forgets it, and the agent hears of an empty prompt
    assert client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error 400")
    client.settle()
    assert client.finals("kept") == []
    assert agent.records("retained request is ignored")
