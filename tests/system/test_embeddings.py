"""Embeddings over MQTT, with a real encoder beside the default text model."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.reference.vectors import cosines, reference_vectors, sentences
from tests.system.conftest import Lab

NAME = "all-minilm-l6-v2.f16"


@pytest.fixture(scope="module")
def node(module_lab: Lab, embedding_model: Path) -> AgentProcess:
    """An agent with a text model and an encoder."""
    agent = module_lab.agent()
    folder = agent.state_dir / "models"
    folder.mkdir(parents=True)
    shutil.copyfile(embedding_model, folder / embedding_model.name)
    client = module_lab.client(agent)
    agent.start()
    agent.wait_online(client)
    return agent


@pytest.fixture(params=[5, 4], ids=["mqtt5", "mqtt3.1.1"])
def asker(request: pytest.FixtureRequest, node: AgentProcess, module_lab: Lab) -> IotClient:
    """A client of that agent, once for each protocol version."""
    return module_lab.client(node, version=request.param)


def embed(client: IotClient, name: str, texts: Any, **fields: Any) -> dict[str, Any]:
    """The final of a request for embeddings."""
    client.ask({"id": name, "task": "embed", "input": texts, **fields})
    return client.final(name)


def engine_pid(node: AgentProcess) -> int:
    """The process id of the encoder's engine, once it is ready."""

    def is_ready(status: dict[str, Any]) -> bool:
        return any(m["task"] == "embed" and m["state"] == "ready" for m in status["models"])

    status = node.wait_status(is_ready, "ready encoder")
    return next(int(m["pid"]) for m in status["models"] if m["task"] == "embed")


def test_vectors_are_those_of_the_original_model(asker: IotClient) -> None:
    """A hundred texts in one request: cosine at least 0.999 with what transformers says; digits survive the JSON."""
    final = embed(asker, "a", sentences())
    assert (final["status"], final["model"].partition("@")[0], final["adapter"]) == (200, NAME, None)
    assert len(final["embeddings"]) == 100
    assert {len(vector) for vector in final["embeddings"]} == {384}
    assert cosines(final["embeddings"], reference_vectors()).min() >= 0.999
    assert "text" not in final
    assert "finish_reason" not in final
    assert final["usage"]["prompt_tokens"] > 1000
    assert final["usage"]["completion_tokens"] == 0


def test_one_text_and_a_list_of_one_are_the_same(asker: IotClient) -> None:
    """As in OpenAI's API."""
    one = embed(asker, "a", "The freezer shows -9 degrees Celsius.")
    many = embed(asker, "b", ["The freezer shows -9 degrees Celsius."], model=NAME)
    assert one["embeddings"] == many["embeddings"]
    assert one["usage"] == many["usage"] == {"prompt_tokens": 13, "cached_tokens": 0, "completion_tokens": 0}


def test_meaning_is_near(asker: IotClient) -> None:
    """What the vectors are for."""
    vectors = embed(asker, "a", ["Switch the lamp on.", "Turn on the light.", "Shares fell on Monday."])["embeddings"]
    near, far = cosines([vectors[0]] * 2, vectors[1:])
    assert (near > 0.6, far < 0.2) == (True, True)


def test_stream_only_brings_the_acceptance(asker: IotClient) -> None:
    """There are no pieces of a vector."""
    final = embed(asker, "a", "hello", stream=True)
    asker.settle()
    assert (final["status"], final["last_seq"]) == (200, 0)
    assert [delta["seq"] for delta in asker.deltas("a")] == [0]


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"task": "embed", "input": "x", "model": "smollm2"}, 400, "model", "which generates text; for 'embed'"),
        ({"prompt": "x", "model": NAME}, 400, "model", "which makes embeddings: use task 'embed' and input"),
        ({"task": "embed", "prompt": "x"}, 400, "input", "task 'embed' takes input"),
        ({"input": "x"}, 400, "input", "task 'generate' takes messages or prompt"),
        ({"task": "embed", "input": ["x", "word " * 600]}, 413, "input", "embed input[1] of 602 tokens: 1 to 512 are"),
        ({"task": "embed", "input": ["x"] * 257}, 400, "input", "length <= 256"),
        ({"task": "embed", "input": []}, 400, "input", "length >= 1"),
    ],
)  # fmt: skip
def test_refusals(
    node: AgentProcess, module_lab: Lab, fields: dict[str, Any], status: int, code: str, words: str
) -> None:
    """Each says what is wrong and what would do."""
    client = module_lab.client(node)
    client.ask({"id": "a", **fields})
    final = client.final("a")
    assert (final["status"], final["error"]["code"]) == (status, code)
    assert final["error"]["message"].startswith("cannot ")
    assert words in final["error"]["message"]


def test_truncation_on_demand(node: AgentProcess, module_lab: Lab) -> None:
    """`truncate` cuts what is too long."""
    final = embed(module_lab.client(node), "a", "word " * 600, truncate=True)
    assert (final["status"], final["usage"]["prompt_tokens"]) == (200, 512)


def test_card_lists_the_encoder(node: AgentProcess, module_lab: Lab) -> None:
    """With its task and the length of its vectors; the node's features have `embed`."""
    client = module_lab.client(node)
    card = client.wait(lambda m: m.topic.endswith("/card") and len(m.json["models"]) == 2).json
    text, encoder = card["models"]
    assert (text["task"], text["dimensions"]) == ("generate", None)
    assert (encoder["name"], encoder["task"], encoder["architecture"]) == (NAME, "embed", "bert")
    assert (encoder["dimensions"], encoder["context_tokens"]) == (384, 512)
    assert "embed" in card["features"]


def test_cancel_and_deadline(node: AgentProcess, module_lab: Lab) -> None:
    """A long list is stopped on the way."""
    client = module_lab.client(node)
    texts = ["a text of some words that takes its time " * 30] * 20
    client.ask({"id": "a", "task": "embed", "input": texts, "stream": True})
    client.wait(lambda _: bool(client.deltas("a")))
    client.publish(f"node/{node.node}/cancel/{client.client}", '{"id": "a"}')
    assert client.final("a")["status"] == 499
    assert embed(client, "b", texts, ttl_ms=60)["status"] == 408


def test_engine_that_dies_is_replaced_and_the_request_runs_again(node: AgentProcess, module_lab: Lab) -> None:
    """As for text; the text model's engine is not touched."""
    client = module_lab.client(node)
    embed(client, "warm", "hello")
    pid, other = engine_pid(node), node.wait_engine()
    os.kill(pid, signal.SIGSTOP)
    client.ask({"id": "a", "task": "embed", "input": sentences()[:5], "stream": True})
    client.wait(lambda _: bool(client.deltas("a")))
    os.kill(pid, signal.SIGKILL)
    assert cosines(client.final("a")["embeddings"], reference_vectors()[:5]).min() >= 0.999
    assert node.records("answered", client=client.client, id="a")[0]["runs"] == 2
    assert (engine_pid(node) != pid, node.wait_engine()) == (True, other)


def test_without_an_encoder_it_is_400(lab: Lab) -> None:
    """The message says what the node has."""
    _, client = lab.online()
    final = embed(client, "a", "hello")
    assert (final["status"], final["error"]["code"]) == (400, "task")
    assert final["error"]["message"] == "cannot run task 'embed': no model of this node does; it has smollm2@1"


def test_node_that_only_embeds(lab: Lab, embedding_model: Path) -> None:
    """An encoder can be the default model: it is loaded from the start, and a prompt is 400."""
    agent = lab.agent(model=embedding_model).start(SHOAL_MODEL_NAME="minilm")
    client = lab.client(agent)
    agent.wait_online(client)
    assert embed(client, "a", "hello")["model"] == "minilm@1"
    client.ask({"id": "b", "prompt": "hello"})
    assert client.final("b")["error"]["message"].startswith("cannot run task 'generate': no model of this node does")
    client.ask("hello")
    assert client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error 400: cannot run task")
