"""Several models on one node: loaded for their first request, within a memory budget, unloaded when idle."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.fakes.waiting import is_alive
from tests.system.conftest import ENDLESS, Lab

STORY: dict[str, Any] = {"prompt": "Tell me a story.", "max_tokens": 60, "stream": True, **ENDLESS}
SMALL = {"SHOAL_MODEL_CONTEXT_TOKENS": "256", "SHOAL_ENGINE_PARALLEL": "1"}  # then an engine takes about 180 MiB
NO_DEFAULT = {"SHOAL_MODEL_FILE": "", "SHOAL_MODEL_NAME": "", "SHOAL_MODEL_VERSION": ""}


@pytest.fixture
def put(model: Path) -> Callable[[AgentProcess, str], Path]:
    """Puts a copy of the default model into an agent's folder, as a careful operator does."""

    def into(node: AgentProcess, name: str) -> Path:
        folder = node.state_dir / "models"
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / "fresh"
        shutil.copyfile(model, fresh)
        return fresh.rename(folder / f"{name}.gguf")

    return into


Put = Callable[[AgentProcess, str], Path]


def online(lab: Lab, put: Put, *names: str, **environment: str) -> tuple[AgentProcess, IotClient]:
    """An agent that has these models beside its default one."""
    node = lab.agent()
    for name in names:
        put(node, name)
    client = lab.client(node)
    node.start(**environment)
    node.wait_online(client)
    return node, client


def ask(client: IotClient, name: str, **fields: Any) -> dict[str, Any]:
    """The final of a short request."""
    client.ask({"id": name, "prompt": "Name a colour.", "max_tokens": 3, "temperature": 0, **fields})
    return client.final(name)


def states(node: AgentProcess) -> dict[str, str]:
    """The state of each model's engine."""
    status = node.peek() or {"models": []}
    return {model["model"].partition("@")[0]: model["state"] for model in status["models"]}


def pid_of(node: AgentProcess, name: str) -> int:
    """The engine's process id."""
    status = node.wait_status(
        lambda s: any(m["model"].startswith(f"{name}@") and m["state"] == "ready" for m in s["models"]), name
    )
    return next(int(m["pid"]) for m in status["models"] if m["model"].startswith(f"{name}@"))


def test_model_is_loaded_for_its_first_request(lab: Lab, put: Put) -> None:
    """The default is there from the start, another one when it is named; both answer, and the card has both."""
    node, client = online(lab, put, "other")
    assert states(node) == {"smollm2": "ready", "other": "asleep"}
    default = pid_of(node, "smollm2")
    first = ask(client, "a")
    second = ask(client, "b", model="other")
    assert (first["status"], first["model"]) == (200, "smollm2@1")
    assert (second["status"], second["model"][:6], second["text"]) == (200, "other@", first["text"])
    assert states(node) == {"smollm2": "ready", "other": "ready"}
    assert pid_of(node, "smollm2") == default
    card = [m.json for m in client.seen if m.topic.endswith("/card")][-1]
    assert [m["name"] for m in card["models"]] == ["smollm2", "other"]
    assert {m["task"] for m in card["models"]} == {"generate"}
    assert ask(client, "c", model=second["model"])["status"] == 200
    refused = ask(client, "d", model="third")
    assert (refused["status"], refused["error"]["code"]) == (404, "model")
    assert refused["error"]["message"].endswith(f"this node has smollm2@1, {second['model']}")


def test_waiting_for_a_model_has_a_deadline(lab: Lab, put: Put) -> None:
    """What the loading takes longer than the request lives ends with 408."""
    _, client = online(lab, put, "other")
    assert ask(client, "a", model="other", ttl_ms=5)["status"] == 408


def test_idle_model_is_unloaded(lab: Lab, put: Put) -> None:
    """Not while it works, never the default; its next request loads it again."""
    node, client = online(lab, put, "other", SHOAL_ENGINE_IDLE_S="1")
    client.ask({"id": "long", **STORY, "model": "other", "max_tokens": 150})
    assert client.final("long")["status"] == 200
    first = node.records("answered", id="long")
    assert first[0]["runs"] == 1
    node.wait_status(lambda s: states(node)["other"] == "asleep", "idle model asleep")
    assert states(node)["smollm2"] == "ready"
    assert ask(client, "again", model="other")["status"] == 200
    assert (node.peek() or {})["requests"]["ended"] == {"200": 2}


def test_model_that_does_not_fit_is_refused_with_numbers(lab: Lab, put: Put) -> None:
    """An idle one goes for it; a busy one and the default one do not, and then it is 507 at once."""
    node, client = online(lab, put, "second", "third", SHOAL_ENGINE_MEMORY_MIB="400", **SMALL)
    assert ask(client, "a", model="second")["status"] == 200
    assert ask(client, "b", model="third")["status"] == 200
    assert states(node) == {"smollm2": "ready", "second": "asleep", "third": "ready"}
    client.ask({"id": "long", **STORY, "model": "third", "max_tokens": 200})
    client.wait(lambda m: m.topic.endswith("/long/delta"))
    refused = ask(client, "c", model="second")
    assert (refused["status"], refused["error"]["code"]) == (507, "memory")
    assert refused["error"]["retry_after_ms"] > 0
    message = refused["error"]["message"]
    numbers = r"it needs 1\d\d MiB \(weights 94, KV 6, margin \d\d\) and \d\d MiB of the budget of 400 MiB are free"
    assert re.search(rf"^cannot load model second@\w+: {numbers}, with third@\w+ and smollm2@1 in use; ", message)
    assert client.final("long")["status"] == 200
    assert ask(client, "d", model="second")["status"] == 200
    assert states(node) == {"smollm2": "ready", "second": "ready", "third": "asleep"}


def test_default_that_does_not_fit_leaves_the_node_degraded(lab: Lab) -> None:
    """It says why, to the operator and to who asks, and starts nothing."""
    node = lab.agent()
    client = lab.client(node)
    node.start(SHOAL_ENGINE_MEMORY_MIB="100", **SMALL)
    status = node.wait_status(lambda s: s["engine"]["problem"] != "", "problem")
    assert status["engine"]["problem"].startswith("cannot load model smollm2@1: it needs 1")
    assert (status["state"], status["engine"]["pid"]) == ("degraded", None)
    client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "degraded")
    refused = ask(client, "a")
    assert (refused["status"], refused["error"]["code"]) == (507, "memory")


def test_crash_of_one_model_leaves_the_others_alone(lab: Lab, put: Put) -> None:
    """What another engine was doing goes on; what the dead one was doing runs again."""
    node, client = online(lab, put, "other")
    ask(client, "warm", model="other")
    client.ask({"id": "a", **STORY})
    client.ask({"id": "b", **STORY, "model": "other"})
    client.wait(lambda m: m.topic.endswith("/a/delta") and m.json["seq"] >= 1)
    client.wait(lambda m: m.topic.endswith("/b/delta") and m.json["seq"] >= 1)
    default = pid_of(node, "smollm2")
    os.kill(pid_of(node, "other"), signal.SIGKILL)
    assert client.final("a")["status"] == client.final("b")["status"] == 200
    runs = {name: node.records("answered", id=name)[0]["runs"] for name in ("a", "b")}
    assert runs == {"a": 1, "b": 2}
    assert pid_of(node, "smollm2") == default
    alert = client.wait(lambda m: m.topic.endswith("/evt/alert") and m.json["name"] == "engine_died").json
    assert alert["data"]["model"].startswith("other@")


def test_without_a_default_a_request_names_its_model(lab: Lab, put: Put) -> None:
    """The refusal names the choices; a plain prompt gets it as text."""
    node, client = online(lab, put, "first", "second", **NO_DEFAULT)
    refused = ask(client, "a")
    assert (refused["status"], refused["error"]["code"]) == (400, "model")
    assert "give one of first@" in refused["error"]["message"]
    client.ask("Name a colour.")
    assert b"cannot choose a model" in client.wait(lambda m: m.topic.endswith("/answer")).payload
    assert ask(client, "b", model="second")["status"] == 200
    assert states(node) == {"first": "asleep", "second": "ready"}


def test_models_come_and_go_while_the_node_runs(lab: Lab, put: Put) -> None:
    """A file that is put into the folder is served within seconds; one that is removed ends what it has begun."""
    node, client = online(lab, put)
    file = put(node, "late")
    node.wait_status(lambda s: len(s["models"]) == 2, "second model")
    client.ask({"id": "long", **STORY, "model": "late", "max_tokens": 150})
    client.wait(lambda m: m.topic.endswith("/long/delta") and m.json["seq"] >= 1)
    file.unlink()
    node.wait_status(lambda s: len(s["models"]) == 1, "model gone")
    assert ask(client, "a", model="late")["status"] == 404
    assert client.final("long")["usage"]["completion_tokens"] == 150
    client.wait(lambda m: m.topic.endswith("/card") and [x["name"] for x in m.json["models"]] == ["smollm2"])
    assert (node.peek() or {})["requests"]["ended"]["200"] == 1


def test_open_requests_of_several_models_outlive_the_daemon(lab: Lab, put: Put) -> None:
    """After a kill each is taken up by its own model; one whose model is gone gets 404."""
    node, client = online(lab, put, "other", "gone")
    for name in ("other", "gone"):
        client.ask({"id": name, **STORY, "model": name})
        client.wait(lambda _: bool(client.deltas(name)))  # noqa: B023  # done with before the next name
    node.stop(signal.SIGKILL)
    (node.state_dir / "models/gone.gguf").unlink()
    node.start()
    assert client.final("gone")["status"] == 404
    final = client.final("other")
    assert (final["status"], final["model"].partition("@")[0]) == (200, "other")


def test_sigterm_drains_every_model(lab: Lab, put: Put) -> None:
    """What runs ends, whichever engine it runs in, and no engine outlives the daemon."""
    node, client = online(lab, put, "other")
    for name, model in (("a", "smollm2"), ("b", "other")):
        client.ask({"id": name, **STORY, "model": model, "max_tokens": 150})
    for name in ("a", "b"):
        client.wait(lambda m, name=name: m.topic.endswith(f"/{name}/delta") and m.json["seq"] >= 1)  # type: ignore[misc]
    pids = [pid_of(node, name) for name in ("smollm2", "other")]
    assert node.stop(signal.SIGTERM) == 0
    assert [client.final(name)["usage"]["completion_tokens"] for name in ("a", "b")] == [150, 150]
    assert not any(is_alive(pid) for pid in pids)
