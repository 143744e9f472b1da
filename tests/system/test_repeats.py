"""The same request more than once: contract rule 1."""

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.system.conftest import ENDLESS, Lab

TIMES = 100
STORY: dict[str, Any] = {"prompt": "Tell me a story.", "max_tokens": 12, **ENDLESS}


@pytest.fixture(scope="module")
def node(module_lab: Lab) -> AgentProcess:
    """An agent that may be frozen and restarted."""
    agent, _ = module_lab.online()
    return agent


@pytest.fixture(params=[5, 4], ids=["mqtt5", "mqtt3.1.1"])
def asker(request: pytest.FixtureRequest, node: AgentProcess, module_lab: Lab) -> IotClient:
    """A client of that agent, once for each protocol version."""
    return module_lab.client(node, version=request.param)


@contextmanager
def frozen(node: AgentProcess) -> Iterator[None]:
    """The engine makes no step meanwhile, so that nothing can end."""
    pid = node.wait_engine()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def finals(client: IotClient, request_id: str) -> list[bytes]:
    """The finals of a request as they came."""
    return [m.payload for m in client.seen if m.topic.endswith(f"/rx/{request_id}/final")]


def wait_finals(client: IotClient, request_id: str, count: int) -> None:
    """Waits until so many finals of a request have come."""
    client.wait(lambda _: len(finals(client, request_id)) == count)


def rows(node: AgentProcess, client: IotClient) -> int:
    """How many requests of a client the journal knows."""
    with sqlite3.connect(f"file:{node.state_dir}/agent.db?mode=ro", uri=True) as db:
        return int(db.execute("SELECT count(*) FROM requests WHERE client = ?", (client.client,)).fetchone()[0])


def accepted(client: IotClient, request_id: str) -> list[dict[str, Any]]:
    """The acceptances of a request."""
    return [d for d in client.deltas(request_id) if d["seq"] == 0]


def test_hundred_times_at_once_is_one_generation(node: AgentProcess, asker: IotClient, module_lab: Lab) -> None:
    """While it runs each repetition is accepted again and nothing else; one answer comes of it."""
    payload = json.dumps({"id": "q", **STORY, "stream": True})
    with frozen(node):
        asker.ask(payload)
        asker.wait(lambda m: m.topic.endswith("/delta"))
        others = [module_lab.client(node, client=asker.client) for _ in range(3)]
        threads = [
            threading.Thread(target=lambda sender=sender: [sender.ask(payload) for _ in range(33)]) for sender in others
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        asker.wait(lambda _: len(accepted(asker, "q")) >= TIMES)
    final = asker.final("q")
    asker.settle()
    assert final["status"] == 200
    assert len(accepted(asker, "q")) == TIMES
    assert len(finals(asker, "q")) == 1
    pieces = [d for d in asker.deltas("q") if d["seq"] > 0]
    assert [p["seq"] for p in pieces] == list(range(1, final["last_seq"] + 1))
    assert len(node.records("answered", client=asker.client)) == 1
    assert rows(node, asker) == 1


def test_afterwards_the_stored_final_comes_again(node: AgentProcess, asker: IotClient) -> None:
    """Byte for byte, without another generation, also when the retry has another deadline or wants no stream."""
    asker.ask({"id": "q", **STORY})
    asker.final("q")
    retries: list[dict[str, Any]] = [{}, {"ttl_ms": 90_000}, {"exp": int(time.time() * 1000) + 50_000}]
    for number, retry in enumerate(retries, 2):
        asker.ask({"id": "q", **STORY, **retry})
        wait_finals(asker, "q", number)
    assert len(set(finals(asker, "q"))) == 1
    assert accepted(asker, "q") == []
    assert len(node.records("answered", client=asker.client)) == 1


def test_stored_final_goes_where_the_retry_says(node: AgentProcess, asker: IotClient) -> None:
    """A client that came back under another topic still gets its answer."""
    asker.ask({"id": "q", **STORY})
    first = asker.final("q")
    elsewhere = f"shoal/v1/home/client/{asker.client}/inbox"
    asker.ask({"id": "q", **STORY, "reply_to": elsewhere})
    assert asker.wait(lambda m: m.topic == elsewhere).json == first
    assert len(node.records("answered", client=asker.client)) == 1


def test_another_question_under_the_same_id_is_409(node: AgentProcess, asker: IotClient) -> None:
    """While the first one runs and after it ended; the first one is answered as if nothing had been."""
    with frozen(node):
        asker.ask({"id": "q", **STORY, "stream": True})
        asker.wait(lambda m: m.topic.endswith("/delta"))
        asker.ask({"id": "q", **STORY, "stream": True, "prompt": "Tell me another story."})
        conflict = asker.any_final()
        assert (conflict["status"], conflict["error"]["code"]) == (409, "id")
    answer = asker.any_final()
    assert answer["status"] == 200
    for other in ({"max_tokens": 13}, {"temperature": 1}, {"stop": ["x"]}, {"logit_bias": {"0": -100, "2": -99}}):
        asker.ask({"id": "q", **STORY, "stream": True, **other})
        assert asker.any_final()["status"] == 409
    asker.ask({"id": "q", **STORY, "stream": True})
    assert asker.any_final() == answer


def test_ids_belong_to_their_clients(node: AgentProcess, asker: IotClient, module_lab: Lab) -> None:
    """Two clients may use the same id for different questions."""
    other = module_lab.client(node)
    asker.ask({"id": "q", **STORY})
    other.ask({"id": "q", **STORY, "max_tokens": 2})
    assert asker.final("q")["usage"]["completion_tokens"] == 12
    assert other.final("q")["usage"]["completion_tokens"] == 2


def test_correlation_data_makes_a_plain_prompt_repeatable(node: AgentProcess, module_lab: Lab) -> None:
    """The same text with the same correlation data is the same request; with other data it is another."""
    client = module_lab.client(node)
    for _ in range(3):
        client.ask("Name a colour.", CorrelationData=b"\x01tag")
    client.wait(lambda _: sum(m.topic.endswith("/answer") for m in client.seen) >= 1)
    client.ask("Name a colour.", CorrelationData=b"\x01tag")
    client.wait(lambda _: sum(m.topic.endswith("/answer") for m in client.seen) >= 2)
    client.settle()
    assert len({m.payload for m in client.seen if m.topic.endswith("/answer")}) == 1
    assert len(node.records("answered", client=client.client)) == 1
    client.ask("Name a colour.", CorrelationData=b"\x02tag")
    node.wait_record("answered", count=2, client=client.client)


def test_repetition_is_known_after_a_restart(node: AgentProcess, asker: IotClient) -> None:
    """Stored answers and conflicts outlive the daemon, killed or stopped."""
    asker.ask({"id": "q", **STORY})
    asker.final("q")
    asker.settle()
    stored = finals(asker, "q")[0]
    for number in (signal.SIGKILL, signal.SIGTERM):
        asker.seen = [m for m in asker.seen if m.topic.endswith("/status")]
        node.stop(number)
        node.start()
        node.wait_online(asker)
        asker.ask({"id": "q", **STORY, "prompt": "Tell me another story."})
        asker.wait(lambda m: m.topic.endswith("/final") and m.json["status"] == 409)
        asker.seen = [m for m in asker.seen if not m.topic.endswith("/final")]
        asker.ask({"id": "q", **STORY})
        asker.final("q")
        assert finals(asker, "q") == [stored]
    assert len(node.records("answered", client=asker.client)) == 1
