"""What kills engines is not run any more, also after a restart of the agent, until an operator lets it."""

import json
import os
import signal
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.system.conftest import ENDLESS, Lab

CANARY = "zanzibar7391"  # in every prompt and schema here; never in a log, a status, an event or a table
SCHEMA: dict[str, Any] = {"type": "array", "items": {"enum": [CANARY, "b"]}, "minItems": 200, "maxItems": 250}


def body(request_id: str, prompt: str = "a story", *, grammar: bool = False, **fields: Any) -> dict[str, Any]:
    """A long request; what distinguishes it is the prompt."""
    form = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}} if grammar else {}
    return {
        "id": request_id, "prompt": f"{CANARY}: {prompt}", "max_tokens": 400, "stream": True, "temperature": 0,
        **({} if grammar else ENDLESS), **form, **fields,
    }  # fmt: skip


def run_until_dead(node: AgentProcess, client: IotClient, request_id: str, number: signal.Signals) -> None:
    """Signals the engine while the request runs, and the next engine when the request runs again there."""
    engine = seen = 0
    for _ in range(2):
        node.wait_engine(other_than=engine)
        client.settle()  # what the engine before it had still said is no sign of this one
        seen = max((int(d["seq"]) for d in client.deltas(request_id)), default=0)
        wait_delta(client, request_id, seen + 1)
        engine = node.wait_engine()
        os.kill(engine, number)
    final = client.final(request_id)
    assert (final["status"], final["error"]["code"]) == (500, "engine_failed")


def wait_delta(client: IotClient, request_id: str, seq: int) -> None:
    """Waits until a piece with this number or a later one has come."""
    client.wait(lambda m: m.topic.endswith(f"/rx/{request_id}/delta") and m.json["seq"] >= seq)


def code(client: IotClient, asked: dict[str, Any]) -> tuple[int, str]:
    """Status and error code of what comes back."""
    client.ask(asked)
    final = client.final(asked["id"])
    return final["status"], final.get("error", {}).get("code", "")


def events(client: IotClient, name: str) -> list[dict[str, Any]]:
    """The data of the node's alerts of this name."""
    client.settle()
    return [m.json["data"] for m in client.seen if m.topic.endswith("/evt/alert") and m.json["name"] == name]


def test_request_that_crashes_two_engines_is_refused_until_it_is_released(lab: Lab) -> None:
    """At once, for everybody, with any id, as JSON or stream, after kill -9 of the agent too; its neighbours run."""
    node, client = lab.online()
    client.ask(body("q1"))
    run_until_dead(node, client, "q1", signal.SIGSEGV)
    other = lab.client(node)
    engine = node.wait_engine()
    assert code(client, body("q2")) == (500, "quarantined")
    assert code(other, body("q3", ttl_ms=5000)) == (500, "quarantined")
    assert code(other, body("q4", "another story", max_tokens=2)) == (200, "")
    node.stop(signal.SIGKILL)
    node.start()
    assert code(client, body("q5")) == (500, "quarantined")
    message = client.final("q5")["error"]["message"]
    (item,) = json.loads(node.command("quarantine", "ls", "--json").stdout)
    assert f"`shoal-agent quarantine release {item['id'][:12]}`" in message
    assert (item["kind"], item["death"], item["grammar"], item["adapter"]) == ("request", "crash", None, None)
    assert events(client, "quarantined") == [{"kind": "request", "id": item["id"], "death": "crash"}]
    assert (node.peek() or {})["quarantine"] == {"request": 1}
    assert "quarantine 1 x request; see " in node.command("status").stdout
    assert json.loads(node.command("ask", f"{CANARY}", "--json", "--max-tokens", "2").stdout)["status"] == 200
    node.wait_engine(other_than=engine)

    released = node.command("quarantine", "release", item["id"][:12])
    assert (released.returncode, released.stdout.splitlines()[-1]) == (0, "released 1")
    assert events(client, "released") == [{"kind": "request", "id": item["id"]}]
    assert code(client, body("q6")) == (200, "")
    assert (node.peek() or {})["quarantine"] == {}

    said = [node.logs(), json.dumps(item), message, *(m.payload.decode() for m in client.seen if "/evt/" in m.topic)]
    assert not [text for text in said if CANARY in text]
    node.stop()
    assert json.loads(node.command("quarantine", "ls", "--json").stdout) == []


def test_what_the_machine_kills_is_not_held_against_a_request(lab: Lab) -> None:
    """SIGKILL, as of a kernel without memory, ends a request with 500, and the next time it runs again."""
    node, client = lab.online()
    for name in ("q1", "q2"):
        client.ask(body(name))
        run_until_dead(node, client, name, signal.SIGKILL)
    assert code(client, body("q3")) == (200, "")
    assert (node.peek() or {})["quarantine"] == {}
    assert node.records("engine ended", death="killed")


def test_request_that_hangs_two_engines_is_refused(lab: Lab) -> None:
    """An engine that makes no step is replaced, and that is a fault too."""
    node, client = lab.online("[engine]\nstall_s = 2\n")
    client.ask(body("q1"))
    run_until_dead(node, client, "q1", signal.SIGSTOP)
    assert code(client, body("q2")) == (500, "quarantined")
    assert node.records("engine ended", death="stall")


def test_grammar_that_two_fatal_requests_shared_is_refused(lab: Lab) -> None:
    """Everything that brings the same schema, and nothing else; without the agent it can be released as well."""
    node, client = lab.online()
    for number in (1, 2):
        client.ask(body(f"q{number}", f"list {number}", grammar=True))
        run_until_dead(node, client, f"q{number}", signal.SIGABRT)
    assert code(client, body("q3", "innocent", grammar=True)) == (500, "quarantined")
    assert "its schema is in quarantine" in client.final("q3")["error"]["message"]
    assert code(client, body("q4", "innocent", max_tokens=2)) == (200, "")
    assert sorted(event["kind"] for event in events(client, "quarantined")) == ["grammar", "request", "request"]
    node.stop()
    listed = node.command("quarantine", "ls").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["request", "request", "grammar"]
    assert node.command("quarantine", "release", "abcdef").returncode == 1
    assert node.command("quarantine", "release", listed[2].split()[1]).stdout.endswith("released 1\n")
    node.start()
    assert code(client, body("q5", "innocent", grammar=True))[0] in (200, 422)
    assert len(json.loads(node.command("quarantine", "release", "--all", "--json").stdout)) == 2
    assert node.command("quarantine", "ls").stdout == "nothing is in quarantine\n"


def test_neighbours_of_a_guilty_request_are_not_condemned(lab: Lab) -> None:
    """Only who died alone; and copies of it that wait are refused without another death."""
    node, client = lab.online("[engine]\nparallel = 2\n")
    client.ask(body("guilty"))
    client.ask(body("a", "another story", max_tokens=60))
    for number in range(3):
        client.ask(body(f"copy{number}"))
    wait_delta(client, "a", 1)
    run_until_dead(node, client, "guilty", signal.SIGSEGV)
    assert client.final("a")["status"] == 200
    finals = [client.final(f"copy{number}") for number in range(3)]
    assert {(final["status"], final["error"]["code"]) for final in finals} == {(500, "quarantined")}
    status = node.wait_status(lambda s: s["requests"]["running"] == 0, "idle agent")
    assert (status["engine"]["restarts"], status["quarantine"]) == (2, {"request": 1})


@pytest.mark.parametrize("words", [["release"], ["release", "abcdef", "--all"], ["ls", "--all"]])
def test_wrong_usage_is_2(lab: Lab, words: list[str]) -> None:
    """Which one, or all: it must be said."""
    assert lab.agent().command("quarantine", *words).returncode == 2


def test_commands_without_an_agent_that_ever_ran(lab: Lab) -> None:
    """Nothing is in quarantine then, and nothing is made."""
    node = lab.agent()
    assert node.command("quarantine", "ls", "--json").stdout == "[]\n"
    assert node.command("quarantine", "release", "--all").stdout == "released 0\n"
    refused = node.command("quarantine", "release", "abcdef")
    assert refused.returncode == 1
    assert refused.stderr.startswith("cannot release 'abcdef': nothing in quarantine has this id")
    assert not node.state_dir.exists()
