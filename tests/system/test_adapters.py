"""Adapters over MQTT: dropped into the node's folder, named in requests, and files that would kill llama.cpp."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.models import digest_of
from tests.fakes.adapters import adapter_builder, encode, make_adapter
from tests.fakes.client import IotClient
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.node import AgentProcess
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import ENDLESS, Lab

SYSTEM = {"role": "system", "content": " ".join(f"Room {number} has a lamp and a window." for number in range(12))}
ANSWER_S = 5.0  # how soon a file that is put there must be served


def online(lab: Lab, model: Path, adapters: dict[str, bytes]) -> tuple[AgentProcess, IotClient]:
    """An agent that has these adapters from the start."""
    node = lab.agent(model=model)
    folder = node.state_dir / "adapters"
    folder.mkdir(parents=True)
    for name, content in adapters.items():
        (folder / f"{name}.gguf").write_bytes(content)
    client = lab.client(node)
    node.start()
    node.wait_online(client)
    return node, client


def ask(client: IotClient, name: str, **fields: Any) -> dict[str, Any]:
    """The final of a short request."""
    client.ask({"id": name, "prompt": "Name a colour.", "max_tokens": 8, "temperature": 0, **fields})
    return client.final(name)


def adapters(node: AgentProcess) -> dict[str, dict[str, Any]]:
    """What the node says of its adapters, by name; files that cannot be used by their names."""
    entries = (node.peek() or {})["adapters"]
    return {entry["adapter"].partition("@")[0]: entry for entry in entries}


def label(node: AgentProcess, name: str) -> str:
    """What a final calls an adapter."""
    return str(adapters(node)[name]["adapter"])


@pytest.fixture(scope="module")
def home(module_lab: Lab, model: Path) -> tuple[AgentProcess, IotClient]:
    """An agent with the default model, three adapters for it and one for another base."""
    folder = module_lab.folder / "made"
    folder.mkdir()
    other_base = write_tiny_model(folder / "other-base")
    adapters = {
        "red": adapter_builder(model, seed=1).build(),
        "blue": adapter_builder(model, seed=2, rank=4).build(),
        "late": adapter_builder(model, seed=3, activation="user").build(),
        "stranger": adapter_builder(other_base).build(),
    }
    return online(module_lab, model, adapters)


def test_the_named_adapter_answers(home: tuple[AgentProcess, IotClient]) -> None:
    """Each says something of its own, alone as well as all at once; the final names it with its version."""
    node, client = home
    names = {"bare": None, "red": "red", "blue": "blue", "late": "late"}
    alone = {name: ask(client, f"alone-{name}", adapter=adapter) for name, adapter in names.items()}
    assert len({final["text"] for final in alone.values()}) == 4
    for name, adapter in names.items():
        client.ask({"id": f"all-{name}", "prompt": "Name a colour.", "max_tokens": 8, "adapter": adapter})
    for name, adapter in names.items():
        for final in (alone[name], client.final(f"all-{name}")):
            assert (final["status"], final["adapter"]) == (200, adapter and label(node, adapter))
    assert ask(client, "version", adapter=label(node, "red"))["adapter"] == label(node, "red")


def test_adapters_decode_together(home: tuple[AgentProcess, IotClient]) -> None:
    """The first request with an adapter brings slots for several."""
    node, client = home
    ask(client, "first", adapter="red")
    status = node.wait_status(lambda s: s["models"][0]["slots"], "slots")
    assert status["models"][0]["slots"]["num_slots"] > 1


def test_a_request_says_from_where_the_adapter_acts(home: tuple[AgentProcess, IotClient]) -> None:
    """From the user turn on, the system prompt is computed once for all adapters; from the first token, for each."""
    _, client = home
    cached = {}
    for adapter, activation in (("red", "user"), ("blue", "user"), ("late", None), ("blue", "prompt")):
        messages = [SYSTEM, {"role": "user", "content": "Which rooms are there?"}]
        name = f"{adapter}-{activation or 'default'}"
        client.ask(
            {"id": name, "messages": messages, "max_tokens": 2, "adapter": adapter}
            | ({"activation": activation} if activation else {})
        )
        final = client.final(name)
        assert final["status"] == 200
        cached[name] = final["usage"]["cached_tokens"]
    assert cached["red-user"] == cached["blue-prompt"] == 0
    assert cached["blue-user"] == cached["late-default"] > 100
    final = ask(client, "wrong", adapter="red", activation="late")
    assert (final["status"], final["error"]["code"]) == (400, "activation")


def test_what_cannot_be_used_is_refused_with_the_reason(home: tuple[AgentProcess, IotClient], model: Path) -> None:
    """404 lists what is there; the status says why an adapter that does not fit the model is not."""
    node, client = home
    unknown = ask(client, "unknown", adapter="green")
    assert (unknown["status"], unknown["error"]["code"]) == (404, "adapter")
    assert all(label(node, name) in unknown["error"]["message"] for name in ("red", "blue", "late"))
    assert ask(client, "old", adapter="red@000000000000")["status"] == 404
    assert ask(client, "stranger", adapter="stranger")["status"] == 404
    problem = adapters(node)["stranger.gguf"]["problem"]
    assert "the base has" in problem
    assert digest_of(model) in problem


def test_the_card_lists_adapters_for_its_models(home: tuple[AgentProcess, IotClient], model: Path) -> None:
    """With digest and base; one for another base is not among them."""
    node, client = home
    card = client.wait(lambda m: m.topic.endswith("/card") and bool(m.json["adapters"])).json
    assert [entry["name"] for entry in card["adapters"]] == ["blue", "late", "red"]
    for entry in card["adapters"]:
        assert entry["sha256"] == adapters(node)[entry["name"]]["sha256"]
        assert entry["base_sha256"] == digest_of(model)


def test_adapters_come_change_and_go_while_the_node_runs(lab: Lab, model: Path, tmp_path: Path) -> None:
    """A file is served within seconds, another one is a new version, a removed name ends what it has begun."""
    node, client = online(lab, model, {})
    folder = node.state_dir / "adapters"
    assert ask(client, "none", adapter="new")["error"]["message"].endswith("this node has none")

    def put(seed: int) -> str:
        fresh = make_adapter(tmp_path / "fresh", model, seed=seed)
        sha256 = digest_of(fresh)
        fresh.rename(folder / "new.gguf")
        return sha256

    def wait_card(sha256s: list[str]) -> None:
        client.wait(
            lambda m: m.topic.endswith("/card") and [a["sha256"] for a in m.json["adapters"]] == sha256s, ANSWER_S
        )

    def forget_cards() -> None:
        client.seen = [message for message in client.seen if not message.topic.endswith("/card")]

    texts = []
    for seed in (1, 2):
        sha256 = put(seed)
        wait_card([sha256])
        final = ask(client, f"seed-{seed}", adapter="new")
        assert (final["status"], final["adapter"]) == (200, f"new@{sha256[:12]}")
        texts.append(final["text"])
    assert texts[0] != texts[1]
    client.ask({"id": "long", "prompt": "Tell a story.", "max_tokens": 60, "adapter": "new", "stream": True, **ENDLESS})
    client.wait(lambda _: bool(client.deltas("long")))
    forget_cards()
    assert node.command("adapters", "rm", "new").returncode == 0
    wait_card([])
    assert ask(client, "gone", adapter="new")["status"] == 404
    final = client.final("long")
    assert (final["status"], final["usage"]["completion_tokens"]) == (200, 60)


def test_adapters_outlive_an_engine(lab: Lab, model: Path) -> None:
    """A new engine gets them again: what was lost goes on with its adapter, and says the same."""
    node, client = online(lab, model, {"red": adapter_builder(model, seed=1).build()})
    want = {"prompt": "Tell a story.", "max_tokens": 40, "temperature": 0, "adapter": "red", **ENDLESS}
    client.ask({"id": "before", **want})
    before = client.final("before")
    client.ask({"id": "lost", "stream": True, **want})
    client.wait(lambda _: bool(client.deltas("lost")))
    node.kill_engine()
    lost = client.final("lost")
    assert (lost["status"], lost["adapter"]) == (200, label(node, "red"))
    assert lost["usage"]["completion_tokens"] == 40
    assert before["status"] == 200


def no_string(builder: GgufBuilder) -> GgufBuilder:
    """general.type is a number."""
    return builder.key("general.type", "u32", 1)


def nan(builder: GgufBuilder) -> GgufBuilder:
    """One weight is no number."""
    weights = np.zeros((64, 8))
    weights[3, 3] = np.nan
    return builder.tensor("blk.0.attn_q.weight.lora_b", "f16", (8, 64), encode(weights, "f16"))


SPOILED: dict[str, Callable[[GgufBuilder], GgufBuilder]] = {
    "alpha-u32": lambda builder: builder.key("adapter.lora.alpha", "u32", 16),
    "alpha-nan": lambda builder: builder.key("adapter.lora.alpha", "f32", float("nan")),
    "type-number": no_string,
    "3-dimensions": lambda builder: builder.tensor("blk.0.attn_q.weight.lora_a", "f16", (64, 8, 1)),
    "integers": lambda builder: builder.tensor("blk.0.attn_q.weight.lora_a", 26, (64, 8), bytes(2048)),
    "q8-k": lambda builder: builder.tensor("blk.0.attn_q.weight.lora_a", 15, (256, 8), bytes(8 * 292)),
    "ranks-differ": lambda builder: builder.tensor("blk.0.attn_q.weight.lora_a", "f16", (64, 4)),
    "rank-0": lambda builder: builder.tensor("blk.0.attn_q.weight.lora_a", "f16", (64, 0), b""),
    "half-missing": lambda builder: (builder.tensors.pop("blk.0.attn_q.weight.lora_a"), builder)[1],
    "nan": nan,
}
CUTS = {"no-bytes": 0, "head-only": 200, "no-end": -1000}


def test_hostile_files_are_refused_and_harm_nobody(lab: Lab, tmp_path: Path) -> None:
    """Files that kill llama.cpp or spoil its answers are not imported; what runs beside them does not notice."""
    base = write_tiny_model(tmp_path / "base.gguf", dtype="f32", num_spare=4, context_tokens=512, endless=True)
    good = adapter_builder(base).build()
    hostile = {name: spoil(adapter_builder(base)).build() for name, spoil in SPOILED.items()}
    hostile |= {name: good[:cut] for name, cut in CUTS.items()}
    node, client = online(lab, base, {"good": good, **hostile})
    pid = node.wait_engine()
    before = ask(client, "before", adapter="good")
    client.ask({"id": "beside", "prompt": "Go on.", "max_tokens": 400, "adapter": "good", "stream": True})
    client.wait(lambda _: bool(client.deltas("beside")))
    for name in hostile:
        final = ask(client, name, adapter=name)
        assert (final["status"], final["error"]["code"]) == (404, "adapter"), name
    problems = {entry["adapter"]: entry["problem"] for entry in (node.peek() or {})["adapters"] if "problem" in entry}
    assert set(hostile) == {file.removesuffix(".gguf") for file in problems}
    assert all(problem.startswith("cannot ") for problem in problems.values())
    after = ask(client, "after", adapter="good")
    assert (before["status"], after["status"]) == (200, 200)
    assert after["text"] == before["text"]
    assert client.final("beside")["usage"]["completion_tokens"] == 400
    assert node.wait_engine() == pid
    assert (node.peek() or {})["engine"]["restarts"] == 0
