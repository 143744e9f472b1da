"""From OpenAI's words to ours and back."""

from typing import Any

import msgspec
import pytest

from contract.answers import Final, Timings, Usage
from contract.errors import Refused
from contract.topics import NodeRequest, PoolRequest
from fleet.completion import Asked, ChatRequest, completion, ending, error_type, opening, piece, read

NOW_MS = 1_800_000_000_000
MESSAGES = [{"role": "user", "content": "hello"}]


def asked(**fields: Any) -> Asked:
    """What is asked with these fields, as they come over HTTP."""
    body = msgspec.json.encode({"model": "node:n1", "messages": MESSAGES} | fields)
    return read(msgspec.json.decode(body, type=ChatRequest), "r1", NOW_MS)


@pytest.mark.parametrize(
    ("model", "to", "wanted"),
    [
        ("node:n1", NodeRequest("n1", "gateway"), None),
        ("pool:cellar", PoolRequest("cellar", "gateway"), None),
        ("node:n1/smollm2", NodeRequest("n1", "gateway"), "smollm2"),
        ("pool:p.1/smollm2@1.0+b", PoolRequest("p.1", "gateway"), "smollm2@1.0+b"),
    ],
)
def test_the_model_says_whom_to_ask(model: str, to: NodeRequest | PoolRequest, wanted: str | None) -> None:
    """A node or a pool, and behind a slash which model of theirs."""
    found = asked(model=model)
    assert (found.to, found.request.model, found.model) == (to, wanted, model)


@pytest.mark.parametrize(
    "model", ["", "n1", "node:", "node:N1", "node:n1/", "node:n1/a/b", "group:g", "node:n1\n", "pool:+", "node:#"]
)
def test_a_model_that_names_nobody_is_refused(model: str) -> None:
    """Above all nothing that would be a wildcard in a topic."""
    with pytest.raises(msgspec.ValidationError, match="model"):
        asked(model=model)


def test_fields_pass_through() -> None:
    """OpenAI's and our own; unknown ones are left out."""
    fields = {"adapter": None, "top_k": 3, "stop": ["a"], "logit_bias": {"5": -1}, "priority": 9, "conversation": "c"}
    request = asked(**fields, user="somebody", store=False).request
    assert request.adapter is None
    assert (request.top_k, request.stops, request.logit_bias) == (3, ["a"], {5: -1})
    assert (request.priority, request.conversation, request.id) == (9, "c", "r1")


def test_both_names_for_the_length_work() -> None:
    """`max_completion_tokens` is OpenAI's newer name."""
    assert asked(max_completion_tokens=7).request.max_tokens == 7
    assert asked(max_completion_tokens=7, max_tokens=5).request.max_tokens == 5


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2}, {"tools": [{}]}, {"functions": [{}]}, {"id": "r2"}, {"reply_to": "x"}, {"prompt": "x"},
        {"input": "x"}, {"task": "embed"}, {"messages": []}, {"messages": [{"role": "wizard", "content": "x"}]},
        {"temperature": 3},
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_and_not_left_out(field: dict[str, Any]) -> None:
    """An answer to another question than the one that was asked helps nobody."""
    with pytest.raises(msgspec.ValidationError):
        asked(**field)


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"exp": NOW_MS - 1}, "exp"),
        ({"ttl_ms": 700_000}, "ttl_ms"),
        ({"max_completion_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_the_rules_of_the_contract_hold(field: dict[str, Any], code: str) -> None:
    """A refusal names the field."""
    with pytest.raises(Refused) as refused:
        asked(**field)
    assert refused.value.code == code
    assert refused.value.message.startswith("cannot ")


def test_the_deadline_travels_as_a_duration() -> None:
    """The node's clock may be another: what is left is told. The earlier of two holds."""
    assert asked().request.ttl_ms == 60_000
    both = asked(exp=NOW_MS + 5000, ttl_ms=9000).request
    assert (both.ttl_ms, both.exp) == (5000, None)


FINAL = Final(
    id="r1", status=200, text="hi", finish_reason="length", usage=Usage(10, 4, 2), node="n1", model="m@1", adapter=None,
    timings=Timings(1.0, 2.0, 3.0), last_seq=1,
)  # fmt: skip


def test_a_final_becomes_a_completion() -> None:
    """With OpenAI's counts, and our own facts beside them."""
    made = msgspec.to_builtins(completion(asked(), FINAL))
    assert made["choices"] == [
        {"message": {"content": "hi", "role": "assistant"}, "finish_reason": "length", "index": 0, "logprobs": None}
    ]
    assert made["usage"]["total_tokens"] == 12
    assert made["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert (made["model"], made["id"], made["created"]) == ("node:n1", "chatcmpl-r1", NOW_MS // 1000)
    assert (made["shoal"]["node"], made["shoal"]["model"], made["shoal"]["adapter"]) == ("n1", "m@1", None)
    assert "energy" not in made["shoal"]


def test_a_stream_begins_with_who_speaks_and_ends_with_why() -> None:
    """The usage comes only when it was asked for."""
    first, some = msgspec.to_builtins(opening(asked())), msgspec.to_builtins(piece(asked(), "h"))
    assert first["choices"][0]["delta"] == {"content": "", "role": "assistant"}
    assert some["choices"][0]["delta"] == {"content": "h"}
    (last,) = ending(asked(), FINAL)
    assert last.choices[0].finish_reason == "length"
    plain, counted = ending(asked(stream_options={"include_usage": True}), FINAL)
    assert plain == last
    assert counted.choices == []
    assert msgspec.to_builtins(counted)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("status", "word"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
     (429, "rate_limit_error"), (408, "server_error"), (503, "server_error"), (507, "server_error")],
)  # fmt: skip
def test_errors_have_the_words_of_openai(status: int, word: str) -> None:
    """Its clients look at them."""
    assert error_type(status) == word
