"""What dies, hangs or is damaged: the engine, the daemon, the journal, the model file."""

import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.fakes.tiny_model import tiny_model
from tests.fakes.waiting import is_alive, until
from tests.system.conftest import ENDLESS, Lab

STORY: dict[str, Any] = {"prompt": "Tell me a story.", "max_tokens": 60, "stream": True, **ENDLESS}
KILLS = 15


@pytest.fixture(scope="module")
def node(module_lab: Lab) -> AgentProcess:
    """An agent whose engine may be killed."""
    agent, _ = module_lab.online()
    return agent


@pytest.fixture
def asker(node: AgentProcess, module_lab: Lab) -> IotClient:
    """A client of that agent."""
    node.wait_engine()
    return module_lab.client(node)


def identity(node: AgentProcess) -> tuple[int, int]:
    """The daemon's process and the number of its connection."""
    status = node.peek()
    assert status is not None
    return int(status["pid"]), int(status["broker"]["session"])


def kill_engine(node: AgentProcess) -> int:
    """Kill -9 of the engine that runs now; returns its pid."""
    status = node.peek()
    assert status is not None
    pid = int(status["engine"]["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_delta(client: IotClient, request_id: str, seq: int) -> None:
    """Waits until a piece with this number or a later one has come."""
    topic = f"/rx/{request_id}/delta"
    client.wait(lambda m: m.topic.endswith(topic) and m.json["seq"] >= seq)


def last_seq(client: IotClient, request_id: str) -> int:
    """The number of the newest piece."""
    client.settle()
    return max(int(d["seq"]) for d in client.deltas(request_id))


def assert_whole(client: IotClient, request_id: str) -> None:
    """Its pieces are contiguous, none came twice, and joined they are the text of its only final."""
    client.settle()
    (final,) = client.finals(request_id)
    pieces = client.deltas(request_id)
    assert [p["seq"] for p in pieces] == list(range(final["last_seq"] + 1))
    if "text" in final:
        assert "".join(p["text"] for p in pieces[1:]) == final["text"]


def answers(client: IotClient, **fields: Any) -> bool:
    """Whether an ordinary request is answered."""
    client.ask({"id": "next", "prompt": "Name a colour.", "max_tokens": 2, **fields})
    return bool(client.final("next")["status"] == 200)


def wait_problem(node: AgentProcess, problem: str) -> None:
    """Waits until the agent gives this reason for not serving."""
    node.wait_status(lambda s: problem in s["engine"]["problem"], problem)


# The engine.


@pytest.mark.parametrize("seq", [0, 1, 3], ids=["in the prompt", "at the first piece", "in the middle"])
def test_request_survives_the_engine(node: AgentProcess, asker: IotClient, seq: int) -> None:
    """Kill -9 at any point: it runs again once and goes on behind what it had said; the daemon stays connected."""
    before = identity(node)
    asker.ask({"id": "q", **STORY, "prompt": "Tell me a story about the sea. " * 40})
    wait_delta(asker, "q", seq)
    pid = kill_engine(node)
    assert asker.final("q")["status"] == 200
    assert asker.final("q")["usage"]["completion_tokens"] == 60
    assert_whole(asker, "q")
    assert node.records("answered", client=asker.client)[0]["runs"] == 2
    assert node.wait_engine(other_than=pid)
    assert identity(node) == before


def test_idle_engine_is_replaced_and_the_operator_hears_of_it(node: AgentProcess, asker: IotClient) -> None:
    """Kill -9 between requests: an alert is published, presence stays online, the next request is answered."""
    before = identity(node)
    pid = kill_engine(node)
    topic = f"/node/{node.node}/evt/alert"
    alert = asker.wait(lambda m: m.topic.endswith(topic) and m.json["name"] == "engine_died")
    assert len(alert.json["eid"]) == 32
    assert answers(asker)
    assert node.wait_engine(other_than=pid)
    asker.settle()
    assert {m.json["s"] for m in asker.seen if m.topic.endswith("/status")} == {"online"}
    assert identity(node) == before


def test_request_that_dies_twice_is_500_and_the_next_one_is_answered(lab: Lab) -> None:
    """The second death on the same request is its end."""
    node, client = lab.online()
    client.ask({"id": "q", **STORY, "max_tokens": 400})
    wait_delta(client, "q", 2)
    first = kill_engine(node)
    seen = last_seq(client, "q")
    wait_delta(client, "q", seen + 2)
    kill_engine(node)
    final = client.final("q")
    assert (final["status"], final["error"]["code"]) == (500, "engine_failed")
    assert_whole(client, "q")
    assert answers(client)
    assert node.wait_engine(other_than=first)
    client.ask({"id": "q", **STORY, "max_tokens": 400})  # a repetition gets the stored error
    client.wait(lambda _: len(client.finals("q")) == 2)
    assert client.finals("q")[0] == client.finals("q")[1]


def test_innocent_requests_survive_a_guilty_one(lab: Lab) -> None:
    """Of several that ran when the engine died only the one that kills it again fails; later ones are not touched."""
    node, client = lab.online()
    client.ask({"id": "guilty", **STORY, "max_tokens": 400, "priority": 9})
    for name in ("a", "b"):
        client.ask({"id": name, **STORY, "max_tokens": 100})
    for name in ("guilty", "a", "b"):
        wait_delta(client, name, 1)
    kill_engine(node)
    seen = last_seq(client, "guilty")
    client.ask({"id": "late", **STORY})
    wait_delta(client, "guilty", seen + 1)  # it goes first, and alone
    kill_engine(node)
    assert client.final("guilty")["status"] == 500
    for name in ("a", "b", "late"):
        assert client.final(name)["status"] == 200
        assert_whole(client, name)


def test_engine_killed_while_it_starts(lab: Lab) -> None:
    """Deaths that no load flag is to blame for change none; a request that waited meanwhile is answered."""
    node = lab.agent()
    client = lab.client(node)
    node.start()
    client.wait(lambda m: m.topic.endswith("/status"))  # from here on the broker keeps what is asked
    killed: set[int] = set()
    for _ in range(2):
        status = node.wait_status(lambda s: s["engine"]["pid"] not in {None, *killed}, "engine that starts")
        os.kill(status["engine"]["pid"], signal.SIGKILL)
        killed.add(status["engine"]["pid"])
        client.ask({"id": f"q{len(killed)}", "prompt": "Name a colour.", "max_tokens": 2})
    assert client.final("q1")["status"] == client.final("q2")["status"] == 200
    status = node.wait_status(lambda s: s["engine"]["state"] == "ready", "ready engine")
    assert (status["engine"]["flags"], status["engine"]["restarts"]) == ("fast", 2)


def test_engine_that_hangs_is_replaced_and_an_idle_one_is_not(lab: Lab) -> None:
    """SIGSTOP: no step, no answer to a ping, so it is replaced within `stall_s`, and the request runs again."""
    node, client = lab.online("[engine]\nstall_s = 3\n")
    status = node.wait_status(lambda s: s["uptime_s"] >= 8, "agent of 8 s")  # longer than the time between pings
    assert status["engine"]["restarts"] == 0
    client.ask({"id": "q", **STORY})
    wait_delta(client, "q", 1)
    os.kill(status["engine"]["pid"], signal.SIGSTOP)
    assert client.final("q")["status"] == 200
    assert_whole(client, "q")
    assert node.records("engine does not answer and is replaced")
    assert not is_alive(status["engine"]["pid"])


def test_many_kills_of_the_engine_under_load(lab: Lab) -> None:
    """Whatever is killed when: every request ends once, whole, with 200 or, killed twice, with 500."""
    chance = random.Random(5)
    node, client = lab.online()
    names = [f"q{number}" for number in range(12)]
    for name in names:
        client.ask({"id": name, **STORY, "max_tokens": chance.randint(1, 60), "stream": chance.random() < 0.7})
    for number in range(1, 5):
        node.wait_record("answered", count=2 * number)
        os.kill(node.wait_engine(), signal.SIGKILL)
    for name in names:
        assert client.final(name)["status"] in (200, 500)
    client.settle()
    for name in names:
        if client.deltas(name):
            assert_whole(client, name)
        assert len(client.finals(name)) == 1
    assert answers(client)


# The daemon.


def test_daemon_killed_at_random_moments_loses_no_prompt(lab: Lab) -> None:
    """Kill -9 again and again under a stream of requests: each gets an answer, and copies are the same byte for byte.

    The broker acknowledged every one of them; those that the agent had not acknowledged come again.
    """
    chance = random.Random(2)
    node = lab.agent("[limits]\nttl_ms = 300000\n")
    client = lab.client(node)
    node.start()
    node.wait_online(client)  # from here on the broker keeps its session
    asked: list[str] = []
    num_plain = 0
    engines: set[int] = set()
    for _ in range(KILLS):
        for _ in range(chance.randint(1, 4)):
            if chance.random() < 0.3:
                num_plain += 1
                client.ask(f"Say the number {num_plain}.")
            else:
                asked.append(f"k{len(asked)}")
                client.ask({"id": asked[-1], "prompt": f"Count to {len(asked)}.", "max_tokens": 4})
        time.sleep(chance.uniform(0, 2.5))  # not to wait for anything: the moment of the kill is the test
        if status := node.peek():
            engines |= {int(status["engine"]["pid"] or 0)}
        node.stop(signal.SIGKILL)
        node.start()
    answers: dict[str, set[bytes]] = {}

    def all_answered() -> bool:
        answers.clear()
        for message in client.seen:
            if message.topic.endswith(("/final", "/answer")):
                answers.setdefault(message.properties.CorrelationData.decode(), set()).add(message.payload)
        return len(answers) >= len(asked) + num_plain

    client.wait(lambda _: all_answered())
    node.wait_status(lambda s: s["requests"]["running"] + s["requests"]["waiting"] + s["outbox"] == 0, "idle agent")
    client.settle()
    assert all_answered()
    assert set(asked) <= answers.keys()
    assert len(answers) == len(asked) + num_plain  # a plain prompt that came again is still one request
    assert all(len(copies) == 1 for copies in answers.values())
    finals = [json.loads(next(iter(answers[name]))) for name in asked]
    assert {final["status"] for final in finals} == {200}
    until(lambda: not any(is_alive(pid) for pid in engines if pid), "end of the engines of killed daemons")


def test_engine_never_outlives_its_daemon(lab: Lab) -> None:
    """Not even one that is stopped and could not notice."""
    node, client = lab.online()
    client.ask({"id": "q", **STORY, "max_tokens": 400})
    wait_delta(client, "q", 1)
    pid = node.wait_engine()
    os.kill(pid, signal.SIGSTOP)
    node.stop(signal.SIGKILL)
    until(lambda: not is_alive(pid), "end of the engine")


def test_sigterm_drains(lab: Lab) -> None:
    """What runs ends, what waits is kept for the next start, what comes now gets 503; presence says each step."""
    node, client = lab.online("[engine]\nparallel = 1\n")
    client.ask({"id": "running", **STORY, "max_tokens": 400})
    wait_delta(client, "running", 1)
    for name in ("a", "b"):
        client.ask({"id": name, "prompt": "Name a colour.", "max_tokens": 2})
    node.wait_status(lambda s: s["requests"]["waiting"] == 2, "two waiting requests")
    engine = node.wait_engine()
    assert node.process is not None
    os.kill(engine, signal.SIGTERM)  # service managers signal the whole group
    node.process.send_signal(signal.SIGTERM)
    client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "draining")
    client.ask({"id": "new", "prompt": "Name a colour.", "max_tokens": 2})
    refused = client.final("new")
    assert (refused["status"], refused["error"]["code"]) == (503, "draining")
    assert refused["error"]["retry_after_ms"] > 0
    assert node.process.wait(60) == 0
    node.process = None
    client.settle()
    assert client.final("running")["usage"]["completion_tokens"] == 400
    assert_whole(client, "running")
    assert client.finals("a") == client.finals("b") == []
    states = [m.json["s"] for m in client.seen if m.topic.endswith("/status")]
    assert states[-2:] == ["draining", "offline"]
    assert not is_alive(engine)
    node.start()
    assert client.final("a")["status"] == client.final("b")["status"] == 200
    assert node.records("stopped")


def test_sigterm_does_not_wait_for_ever(lab: Lab) -> None:
    """A request that does not end within `drain_s` is kept too, and the exit is a good one."""
    node, client = lab.online("[limits]\ndrain_s = 1\n")
    client.ask({"id": "q", **STORY, "stream": False})
    node.wait_status(lambda s: s["requests"]["running"] == 1, "running request")
    os.kill(node.wait_engine(), signal.SIGSTOP)
    assert node.stop(signal.SIGTERM) == 0
    node.start()
    assert client.final("q")["status"] == 200


def test_second_daemon_on_the_same_state_ends_with_a_sentence(node: AgentProcess, asker: IotClient) -> None:
    """It says what to do, changes nothing, and the first one serves on."""
    before = identity(node)
    second = node.command("run")
    assert second.returncode == 1
    assert second.stderr.startswith("cannot start: another agent uses ")
    assert len(second.stderr.splitlines()) == 1
    assert answers(asker)
    assert identity(node) == before


# The disk.


@pytest.mark.parametrize("damage", ["garbage", "half", "nothing"])
def test_damaged_journal_is_set_aside(lab: Lab, damage: str) -> None:
    """The device comes up again by itself: an empty journal, the old file kept, answers delivered, `sess` grows."""
    node, client = lab.online()
    for number in range(3):
        client.ask({"id": f"q{number}", "prompt": "Name a colour.", "max_tokens": 2})
        client.final(f"q{number}")
    session = identity(node)[1]
    node.stop(signal.SIGKILL)
    database = node.state_dir / "agent.db"
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all of it into the one file that is damaged
    content = database.read_bytes()
    database.write_bytes(
        {"garbage": b"\x00garbage" * 4096, "half": content[: len(content) // 2 - 100], "nothing": b""}[damage]
    )
    # Receipts of the old journal's letters: their numbers are given again by the new one.
    (node.state_dir / "receipts").write_bytes(b"".join(struct.pack("<q", key) for key in range(1, 40)))
    client.seen.clear()
    node.start()
    node.wait_online(client)
    assert identity(node)[1] > session
    for number in range(3):
        client.ask({"id": f"q{number}", "prompt": "Name a colour.", "max_tokens": 2})
        assert client.final(f"q{number}")["status"] == 200
    status = node.wait_status(lambda s: s["outbox"] == 0, "empty outbox")
    assert status["requests"]["ended"] == {"200": 3}
    aside = list(node.state_dir.glob("agent.db.damaged-*"))
    assert len(aside) == (damage != "nothing")  # an empty file is a new journal
    assert len(node.records("database was damaged and is set aside")) == len(aside)


def test_daemon_without_a_good_model_waits_for_one(lab: Lab, model: Path, tmp_path: Path) -> None:
    """Missing, no model, truncated: it stays, says degraded and why, answers 503, and serves when a good one comes."""
    file = tmp_path / "model.gguf"
    node = lab.agent(model=file).start()
    client = lab.client(node)
    client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "degraded")
    pid = identity(node)[0]

    def put(make: Any) -> None:
        """Writes a file elsewhere and renames it into place, as a careful operator does."""
        fresh = tmp_path / "fresh"
        make(fresh)
        fresh.replace(file)

    def truncated(path: Path) -> None:
        with model.open("rb") as whole:
            path.write_bytes(whole.read(2**20))

    stages = {
        "there is no such file": None,
        "it is not a GGUF file": lambda path: path.write_bytes(b"hello" * 1000),
        "it ends at byte 1048576, inside": truncated,
        "its GGUF version is": lambda path: path.write_bytes(b"GGUF" + random.Random(1).randbytes(4096)),
        # What only llama.cpp knows to be wrong.
        "unknown pre-tokenizer": lambda path: path.write_bytes(
            tiny_model().key("tokenizer.ggml.pre", "string", "unheard-of").build()
        ),
    }
    for number, (problem, make) in enumerate(stages.items()):
        if make:
            put(make)
        wait_problem(node, problem)
        client.ask({"id": f"q{number}", "prompt": "Name a colour.", "max_tokens": 2})
        final = client.final(f"q{number}")
        assert (final["status"], final["error"]["code"]) == (503, "engine")
        assert final["error"]["retry_after_ms"] > 0
        client.ask("Name a colour.")
        assert client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error 503: cannot ")
    assert (node.peek() or {})["state"] == "degraded"
    put(lambda path: shutil.copyfile(model, path))
    client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "online")
    assert answers(client)
    card = [m.json for m in client.seen if m.topic.endswith("/card")][-1]
    assert card["models"][0]["bytes"] == model.stat().st_size
    assert identity(node)[0] == pid
