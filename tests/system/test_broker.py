"""Brokers that are not there, come late, go away, speak an old version, or want to know who is calling."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto, free_port
from tests.fakes.node import AgentProcess
from tests.fakes.trial_broker import TrialBroker
from tests.fakes.waiting import until
from tests.system.conftest import ENDLESS, Lab

AWAY = "no connection to the broker; trying again with growing pauses"
COLOUR = {"prompt": "Name a colour.", "max_tokens": 2}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own, not started yet."""
    (tmp_path / "own").mkdir()
    broker = Mosquitto(tmp_path / "own")
    yield broker
    broker.stop(signal.SIGKILL)


def session(node: AgentProcess) -> int:
    """The number of the agent's connection, or of its last attempt."""
    status = node.peek()
    assert status is not None
    return int(status["broker"]["session"])


def wait_attempts(node: AgentProcess, count: int) -> None:
    """Waits until the agent has begun to try so many more times."""
    now = session(node)
    node.wait_status(lambda s: s["broker"]["session"] >= now + count, f"{count} attempts to connect")


def answers(client: IotClient, request_id: str) -> bool:
    """Whether an ordinary request is answered."""
    client.ask({"id": request_id, **COLOUR})
    return bool(client.final(request_id)["status"] == 200)


def test_broker_that_comes_late(lab: Lab, own: Mosquitto) -> None:
    """The agent waits for it, says so once, and uses the newest protocol when it is there."""
    node = lab.agent(port=own.port).start()
    node.wait_record(AWAY)
    wait_attempts(node, 2)
    assert node.command("ask", "--max-tokens", "2", "Name a colour.").returncode == 0  # it serves who needs no broker
    own.start()
    client = lab.client(node)
    node.wait_online(client)
    assert answers(client, "q")
    assert (node.peek() or {})["broker"]["protocol"] == "5"
    (said,) = node.records(AWAY)
    assert (said["level"], said["broker"]) == ("warning", f"127.0.0.1:{own.port}")
    assert "refused" in said["why"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_final_arrives_when_the_broker_is_back(lab: Lab, own: Mosquitto, number: signal.Signals) -> None:
    """A request that runs when the broker goes is answered; its final comes once; alerts come too, a while later."""
    own.start()
    node = lab.agent(port=own.port).start()
    client = lab.client(node, keep=True)
    node.wait_online(client)
    engine = node.wait_engine()
    before = session(node)
    client.ask({"id": "q", "prompt": "Tell me a story.", "max_tokens": 60, "stream": True, **ENDLESS})
    client.wait(lambda m: m.topic.endswith("/delta") and m.json["seq"] == 1)
    own.stop(number)
    node.wait_record("answered", id="q")
    os.kill(engine, signal.SIGKILL)
    node.wait_engine(other_than=engine)
    wait_attempts(node, 2)
    assert len(node.records(AWAY)) == 1
    own.start()
    assert client.final("q")["usage"]["completion_tokens"] == 60
    status = node.wait_status(lambda s: s["broker"]["connected"], "connection")
    assert status["broker"]["protocol"] == "5"  # failures of a broker that was not there say nothing about versions
    assert status["broker"]["session"] > before
    if number is signal.SIGKILL:  # once is enough: events come up to 30 s later than finals
        client.wait(lambda m: "/evt/alert" in m.topic and m.json["name"] == "engine_died")
        node.wait_status(lambda s: s["outbox"] == 0, "empty outbox")
    assert answers(client, "next")
    client.settle()
    assert len(client.finals("q")) == 1
    assert len(node.records(AWAY)) == 1


def test_prompts_wait_at_the_broker_while_the_agent_is_away(lab: Lab, own: Mosquitto) -> None:
    """The broker keeps them, also through its own crash; those whose deadline passed meanwhile get 408."""
    own.start()
    node = lab.agent(port=own.port).start()
    client = lab.client(node, keep=True)
    node.wait_online(client)
    assert node.stop() == 0
    client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "offline")
    for name in ("a", "b", "c"):
        client.ask({"id": name, **COLOUR})
    client.ask({"id": "late", **COLOUR, "exp": int(time.time() * 1000) + 1})
    client.ask("Name a colour.")
    saved = own.folder / "mosquitto.db"
    until(lambda: saved.exists() and saved.read_bytes().count(b"Name a colour.") >= 5, "saved prompts")
    own.stop(signal.SIGKILL)
    own.start()
    node.start()
    for name in ("a", "b", "c"):
        assert client.final(name)["status"] == 200
    assert client.final("late")["status"] == 408
    assert not client.wait(lambda m: m.topic.endswith("/answer")).payload.startswith(b"error")


def test_broker_without_mqtt_5(lab: Lab) -> None:
    """The agent falls back to 3.1.1, at once and again after the broker was away, and everything but mirrors works."""
    old = TrialBroker().start()
    try:
        node = lab.agent(port=old.port).start()
        client = lab.client(node, version=4)
        node.wait_online(client)
        assert (node.peek() or {})["broker"]["protocol"] == "3.1.1"
        assert node.records(AWAY) == []
        client.ask({"id": "s", **COLOUR, "max_tokens": 20, "stream": True, **ENDLESS})
        final = client.final("s")
        client.settle()
        pieces = client.deltas("s")
        assert [p["seq"] for p in pieces] == list(range(final["last_seq"] + 1))
        assert "".join(p["text"] for p in pieces[1:]) == final["text"]
        client.ask("Name a colour.")
        assert client.wait(lambda m: m.topic.endswith("/answer")).payload
        client.close()
        old.stop(signal.SIGKILL)
        node.wait_record(AWAY)
        old.start()
        again = lab.client(node, version=4)
        node.wait_online(again)
        assert answers(again, "next")
        assert (node.peek() or {})["broker"]["protocol"] == "3.1.1"
    finally:
        old.stop(signal.SIGKILL)


def test_last_will_names_the_connection_that_was_lost(lab: Lab) -> None:
    """An agent that is stopped or killed is `lost` with its own `sess`; each new connection has a higher one."""
    node, client = lab.online()
    first = session(node)
    assert node.process is not None

    def wait_state(state: str, sess: int) -> None:
        client.wait(lambda m: m.topic.endswith("/status") and (m.json["s"], m.json["sess"]) == (state, sess))

    node.process.send_signal(signal.SIGSTOP)
    wait_state("lost", first)  # after one and a half keep-alives of silence
    node.process.send_signal(signal.SIGCONT)
    node.wait_online(client)
    second = session(node)
    node.stop(signal.SIGKILL)
    wait_state("lost", second)
    node.start()
    node.wait_online(client)
    third = session(node)
    assert first < second < third
    assert answers(client, "q")
    assert node.stop() == 0
    wait_state("offline", third)
    client.settle()
    assert [m.json for m in client.seen if m.topic.endswith("/status")][-1]["s"] == "offline"


# Who is calling.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs the broker's and the agents' certificates."""
    (tmp_path / "ca").mkdir()
    return Authority(tmp_path / "ca")


@pytest.fixture
def guarded(tmp_path: Path, authority: Authority) -> Iterator[tuple[Mosquitto, int]]:
    """A broker with a second port that wants TLS with a client certificate, and that port."""
    (tmp_path / "guarded").mkdir()
    certificate, port = authority.sign("broker"), free_port()
    broker = Mosquitto(
        tmp_path / "guarded",
        extra=f"listener {port} 127.0.0.1\ncafile {authority.file}\ncertfile {certificate}\n"
        f"keyfile {authority.key('broker')}\nrequire_certificate true\nuse_identity_as_username true\n",
    )
    broker.start()
    yield broker, port
    broker.stop(signal.SIGKILL)


def test_tls_with_a_client_certificate(lab: Lab, authority: Authority, guarded: tuple[Mosquitto, int]) -> None:
    """The agent proves who it is, and serves; large prompts come through whole."""
    broker, port = guarded
    certificate = authority.sign("lab")
    node = lab.agent(port=port).start(
        SHOAL_BROKER_CA_FILE=str(authority.file),
        SHOAL_BROKER_CERT_FILE=str(certificate),
        SHOAL_BROKER_KEY_FILE=str(authority.key("lab")),
    )
    client = lab.client(node, port=broker.port)
    node.wait_online(client)
    assert answers(client, "q")
    client.ask({"id": "s", **COLOUR, "max_tokens": 20, "stream": True, **ENDLESS})
    assert client.final("s")["usage"]["completion_tokens"] == 20
    for number in range(8):  # more than a TLS record and a socket's buffer
        client.ask({"id": f"big{number}", "prompt": "a" * 200_000})
    for number in range(8):
        assert client.final(f"big{number}")["status"] == 413
    broker.stop()
    node.wait_record(AWAY)
    broker.start()
    again = lab.client(node, port=broker.port)
    node.wait_online(again)
    assert answers(again, "next")


def test_wrong_authority_is_said_once_and_tried_again(
    lab: Lab, authority: Authority, guarded: tuple[Mosquitto, int], tmp_path: Path
) -> None:
    """A broker that cannot prove itself is not talked to; the log says why, in one line."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    node = lab.agent(port=guarded[1]).start(SHOAL_BROKER_CA_FILE=str(other.file))
    node.wait_record(AWAY)
    wait_attempts(node, 3)
    (said,) = node.records(AWAY)
    assert "certificate verify failed" in said["why"]
    assert (node.peek() or {})["broker"]["connected"] is False


def test_missing_client_certificate_is_said_once_and_tried_again(
    lab: Lab, authority: Authority, guarded: tuple[Mosquitto, int]
) -> None:
    """The broker hangs up on who does not prove itself; the agent goes on trying."""
    node = lab.agent(port=guarded[1]).start(SHOAL_BROKER_CA_FILE=str(authority.file))
    node.wait_record(AWAY)
    wait_attempts(node, 3)
    assert len(node.records(AWAY)) == 1
    assert (node.peek() or {})["broker"]["connected"] is False


def test_password(lab: Lab, tmp_path: Path) -> None:
    """A refused agent says so once and goes on trying; it is in when the broker learns its password."""
    (tmp_path / "b").mkdir()
    passwords, own_password = tmp_path / "b" / "passwords", tmp_path / "secret"
    own_password.write_text("correct horse\n")

    def allow(user: str, password: str, *flags: str) -> None:
        subprocess.run(["mosquitto_passwd", "-b", *flags, passwords, user, password], check=True)

    allow("tester", "t", "-c")
    allow("node", "wrong")
    broker = Mosquitto(tmp_path / "b", extra=f"allow_anonymous false\npassword_file {passwords}\n").start()
    try:
        node = lab.agent(port=broker.port).start(
            SHOAL_BROKER_USERNAME="node", SHOAL_BROKER_PASSWORD_FILE=str(own_password)
        )
        client = lab.client(node, login=("tester", "t"))
        node.wait_record(AWAY)
        wait_attempts(node, 3)
        assert ["authori" in said["why"].lower() for said in node.records(AWAY)].count(True) == 1
        allow("node", "correct horse")
        broker.reload()
        node.wait_online(client)
        assert answers(client, "q")
        assert "correct horse" not in node.logs() + json.dumps(node.peek())
    finally:
        broker.stop(signal.SIGKILL)
