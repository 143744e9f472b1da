"""Chat completions: OpenAI's own client against a controller, with a scripted node and with the real agent."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from contract.topics import AnswerFinal
from fleet.web.connection import REQUEST_S
from tests.fakes.controller import ControllerProcess
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.scripted_node import ScriptedNode
from tests.fakes.waiting import until

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("chat")).ready()
    yield running
    running.stop()


def client_of(controller: ControllerProcess, key: str = "") -> openai.OpenAI:
    """OpenAI's client, told nothing but where and with which key. It does not try again, so that a test sees it all."""
    key = key or controller.folder.operator_token.read_text()
    return openai.OpenAI(
        base_url=f"{controller.folder.url}/v1", api_key=key, max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=controller.tls()),
    )  # fmt: skip


def silent(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
    """Takes a request and never answers."""
    node.accept(request, client)


def test_a_real_model_answers_openais_client(controller: ControllerProcess, model: Path, tmp_path: Path) -> None:
    """Enrolled as every device is: whole, streamed, with a schema, through its pool, and after a refusal."""
    agent = EnrolledAgent(tmp_path / "device", model)
    assert agent.enroll(controller, controller.token("real")).returncode == 0
    agent.start()
    try:
        with client_of(controller) as client:
            until(lambda: "node:real" in [one.id for one in client.models.list().data], "model node:real")
            whole = client.chat.completions.create(model="node:real", messages=HELLO, max_tokens=8, temperature=0)
            assert whole.choices[0].message.content
            assert whole.usage is not None
            assert whole.usage.completion_tokens in range(1, 9)
            assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
            stream = client.chat.completions.create(
                model="node:real", messages=HELLO, max_tokens=8, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            pieces = list(stream)
            text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
            assert text == whole.choices[0].message.content
            assert pieces[-1].usage is not None
            assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
            schema: dict[str, object] = {
                "type": "object",
                "properties": {"on": {"type": "boolean"}},
                "required": ["on"],
            }
            fitted = client.chat.completions.create(
                model="node:real", messages=HELLO, max_tokens=32,
                response_format={"type": "json_schema", "json_schema": {"name": "light", "schema": schema}},
            )  # fmt: skip
            assert isinstance(json.loads(fitted.choices[0].message.content or "")["on"], bool)
            with pytest.raises(openai.NotFoundError) as missing:
                client.chat.completions.create(model="node:real/no-such-model", messages=HELLO)
            assert "no-such-model" in str(missing.value)
    finally:
        agent.stop()


def test_a_completion_has_the_answer_and_who_gave_it(controller: ControllerProcess) -> None:
    """The request that the node gets is the one that was sent, under the gateway's name."""
    with ScriptedNode(controller, "plain") as node, client_of(controller) as client:
        made = client.chat.completions.create(
            model="node:plain/m@1", messages=HELLO, extra_body={"adapter": "home", "priority": 7, "ttl_ms": 20_000}
        )
        request = node.requests.get(timeout=20)
    assert made.choices[0].message.content == "Hello there"
    assert made.choices[0].finish_reason == "stop"
    assert (request["model"], request["adapter"], request["priority"]) == ("m@1", "home", 7)
    assert request["ttl_ms"] <= 20_000
    assert made.model_extra is not None
    assert made.model_extra["shoal"]["node"] == "plain"
    assert made.usage is not None
    assert (made.usage.total_tokens, made.usage.prompt_tokens_details.cached_tokens) == (9, 3)  # type: ignore[union-attr]  # it is there


def test_a_pool_is_asked_and_an_empty_one_is_not_waited_for(controller: ControllerProcess) -> None:
    """A member answers; when it has gone the answer is 503 at once."""
    with client_of(controller) as client:
        with ScriptedNode(controller, "member", pools=("cellar",)):
            made = client.chat.completions.create(model="pool:cellar", messages=HELLO)
            assert made.choices[0].message.content == "Hello there"
        until(lambda: "pool:cellar" not in [one.id for one in client.models.list().data], "end of the pool")
        with pytest.raises(openai.InternalServerError) as gone:
            client.chat.completions.create(model="pool:cellar", messages=HELLO)
        assert (gone.value.status_code, gone.value.code) == (503, "not_here")


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"status": 400, "error": {"code": "stop", "message": "cannot …"}}, 400, "invalid_request_error"),
        ({"status": 408, "error": {"code": "deadline", "message": "cannot …"}}, 408, "server_error"),
        ({"status": 422, "error": {"code": "unfit", "message": "cannot …"}}, 422, "invalid_request_error"),
        ({"status": 429, "error": {"code": "q", "message": "cannot", "retry_after_ms": 1500}}, 429, "rate_limit_error"),
        ({"status": 499, "error": {"code": "cancelled", "message": "cannot …"}}, 503, "server_error"),
        ({"status": 507, "error": {"code": "memory", "message": "cannot …"}}, 507, "server_error"),
        ({"status": 777}, 503, "server_error"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_nodes_refusal_is_one_of_openais_errors(
    controller: ControllerProcess, fields: dict[str, Any], status: int, kind: str, stream: bool
) -> None:
    """Also when a stream was asked for: nothing has been sent yet."""

    def refuse(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
        node.final(request, client, **fields)

    with (
        ScriptedNode(controller, "refusing", refuse),
        client_of(controller) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.chat.completions.create(model="node:refusing", messages=HELLO, stream=stream)
    assert (refused.value.status_code, refused.value.type) == (status, kind)
    if status == 429:
        assert refused.value.response.headers["retry-after"] == "2"
        assert refused.value.response.headers["retry-after-ms"] == "1500"


def test_a_stream_repairs_what_was_lost_and_tells_what_went_wrong(controller: ControllerProcess) -> None:
    """The final brings what a lost piece held; an error after the first piece ends the stream as an error."""

    def lose(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
        node.accept(request, client)
        node.delta(request, client, 1, "One ")
        node.delta(request, client, 3, "three")
        node.final(request, client, text="One two three")

    def break_off(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
        node.delta(request, client, 1, "One ")
        node.final(request, client, status=500, error={"code": "engine", "message": "cannot …"})

    with client_of(controller) as client:
        with ScriptedNode(controller, "losing", lose):
            stream = client.chat.completions.create(model="node:losing", messages=HELLO, stream=True)
            assert "".join(piece.choices[0].delta.content or "" for piece in stream) == "One two three"
        with ScriptedNode(controller, "breaking", break_off):
            pieces = list[str]()
            stream = client.chat.completions.create(model="node:breaking", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match="cannot …"):
                pieces.extend(piece.choices[0].delta.content or "" for piece in stream)
            assert controller.records("answer broken off", status=500, error="Problem")


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_cancels(controller: ControllerProcess, stream: bool) -> None:
    """A connection that ends, ends the request at the node too."""
    with ScriptedNode(controller, f"left-{stream}".lower(), silent) as node:
        body = {"model": f"node:{node.name}", "messages": HELLO, "stream": stream}
        with (
            controller.api() as api,
            contextlib.suppress(httpx.ReadTimeout),
            api.stream("POST", "/v1/chat/completions", json=body, timeout=2) as answer,
        ):
            next(answer.iter_lines())
        request, cancel = node.requests.get(timeout=20), node.cancels.get(timeout=20)
        assert cancel == {"id": request["id"]}


def test_many_ask_at_once_and_each_gets_its_own(controller: ControllerProcess) -> None:
    """Thirty at a node that takes them in before it answers any, in the other order."""
    waiting: list[tuple[dict[str, Any], str]] = []

    def gather(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
        waiting.append((request, client))
        if len(waiting) == 30:
            for one, whose in reversed(waiting):
                node.final(one, whose, text=f"to {one['messages'][0]['content']}")

    results: dict[int, str] = {}

    def ask(number: int) -> None:
        with controller.api() as api:
            body = {"model": "node:busy", "messages": [{"role": "user", "content": str(number)}]}
            answer = api.post("/v1/chat/completions", json=body).json()
            results[number] = answer["choices"][0]["message"]["content"]

    with ScriptedNode(controller, "busy", gather):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: f"to {number}" for number in range(30)}


def test_more_than_can_be_held_are_told_to_come_again(controller: ControllerProcess) -> None:
    """Beyond 64 waiting ones the next is refused with 429; when one has gone there is room."""
    with ScriptedNode(controller, "held", silent), contextlib.ExitStack() as stack:
        body = {"model": "node:held", "messages": HELLO, "stream": True}
        for _ in range(64):
            api = stack.enter_context(controller.api())
            stack.enter_context(api.stream("POST", "/v1/chat/completions", json=body))
        with controller.api() as api:
            answer = api.post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
            assert api.get("/v1/status").status_code == 200  # others are served


def test_a_deadline_ends_it(controller: ControllerProcess) -> None:
    """A node that never answers is not waited for longer than was asked."""
    with (
        ScriptedNode(controller, "slow", silent),
        client_of(controller) as client,
        pytest.raises(openai.APIStatusError) as late,
    ):
        client.chat.completions.create(model="node:slow", messages=HELLO, extra_body={"ttl_ms": 500})
    assert late.value.status_code == 503
    assert "within 0.5 s" in str(late.value)


def test_a_stream_may_take_longer_than_a_request_may_be_sent(controller: ControllerProcess) -> None:
    """What ends connections of those who send too slowly does not end answers."""
    go = threading.Event()

    def later(node: ScriptedNode, request: dict[str, Any], client: str) -> None:
        node.delta(request, client, 1, "One ")
        go.wait(60)
        node.final(request, client, text="One two")

    with ScriptedNode(controller, "patient", later), client_of(controller) as client:
        stream = client.chat.completions.create(model="node:patient", messages=HELLO, stream=True)
        began, text = time.monotonic(), ""
        with controller.api() as api:  # idle connections are ended after as long
            while time.monotonic() - began < REQUEST_S + 2:
                api.get("/healthz").raise_for_status()
                go.wait(0.5)
        go.set()
        for piece in stream:
            text += piece.choices[0].delta.content or ""
    assert text == "One two"


def test_a_clients_key_asks_within_its_quotas(controller: ControllerProcess) -> None:
    """Requests in a minute and tokens in a day, each with when to come again. An operator has none."""
    made = controller.fleet("client", "create", "lamp", "--requests-per-minute", "2")
    assert made.returncode == 0, made.stderr
    key = controller.fleet("client", "key", "lamp").stdout.strip()
    with ScriptedNode(controller, "quoted"), client_of(controller, key) as client:
        for _ in range(2):
            client.chat.completions.create(model="node:quoted", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as over:
            client.chat.completions.create(model="node:quoted", messages=HELLO)
        assert 0 < int(over.value.response.headers["retry-after"]) <= 30
        assert "2 requests per minute" in str(over.value)

        controller.fleet("client", "create", "kiosk", "--tokens-per-day", "10")
        key = controller.fleet("client", "key", "kiosk").stdout.strip()
        with client_of(controller, key) as kiosk:
            for _ in range(2):  # 9 tokens each
                kiosk.chat.completions.create(model="node:quoted", messages=HELLO)
            with pytest.raises(openai.RateLimitError, match="10 tokens per day"):
                kiosk.chat.completions.create(model="node:quoted", messages=HELLO)
        with client_of(controller) as admin:
            for _ in range(4):
                admin.chat.completions.create(model="node:quoted", messages=HELLO)
        controller.fleet("revoke", "lamp")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_an_answer_that_nobody_asked_for_reaches_nobody(controller: ControllerProcess) -> None:
    """A node may write to any client's topics; what does not belong to a running request is dropped."""
    with ScriptedNode(controller, "odd") as node, client_of(controller) as client:
        for payload in ({"id": "r1", "status": 200, "text": "x"}, "not a final"):
            node.say(AnswerFinal("gateway", "r1"), payload)
        made = client.chat.completions.create(model="node:odd", messages=HELLO)
    assert made.choices[0].message.content == "Hello there"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "node:nobody", "messages": HELLO}, 404, "model_not_found"),
        ({"model": "gpt-4o", "messages": HELLO}, 400, "bad_body"),
        ({"model": "node:+", "messages": HELLO}, 400, "bad_body"),
        ({"model": "node:x", "messages": HELLO, "tools": [{"type": "function"}]}, 400, "bad_body"),
        ({"model": "node:x", "messages": HELLO, "exp": 1}, 408, "invalid"),
        ({"model": "node:x", "messages": HELLO, "ttl_ms": 3_600_000}, 400, "invalid"),
        ({"model": "node:x", "messages": [{"role": "user", "content": "x" * 300_000}]}, 413, "too_large"),
    ],
)
def test_what_cannot_be_asked_is_one_of_openais_errors(
    controller: ControllerProcess, body: dict[str, Any], status: int, code: str
) -> None:
    """With a type and a sentence."""
    with controller.api() as api:
        answer = api.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"].startswith("cannot ")
    assert error["type"].endswith("_error")
