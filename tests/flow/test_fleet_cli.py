"""The `fleet` command against a real broker, with a scripted node in place of an engine."""

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fleet.demo.process import Process, start
from fleet.demo.trial import FOLDER, Trial, save_trial

TEXT = "The light is on, and the blinds are closed."
WAIT_S = 30.0


class Broker(Protocol):
    """What the tests need of a broker."""

    host: str
    port: int


@dataclass
class Node:
    """A node that keeps to the contract and answers by a script instead of a model."""

    host: str
    port: int
    fleet: str
    name: str = "n1"
    pool: str = "p1"
    script: Callable[["Node", dict[str, Any]], None] = lambda node, request: node.answer(request)
    requests: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    cancels: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    topics: list[str] = field(default_factory=list)
    protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5

    def __enter__(self) -> "Node":
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=self.protocol)
        self._client.on_message = self._on_message
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect(self.host, self.port)
        self._client.loop_start()
        filters = [self._path(f"node/{self.name}/req/+"), self._path(f"node/{self.name}/cancel/+")]
        filters += [f"$share/{self.pool}/" + self._path(f"pool/{self.pool}/req/+")]
        self._client.subscribe([(name, 1) for name in filters])
        assert subscribed.wait(WAIT_S)
        self.retain("status", status_of("online"))
        return self

    def __exit__(self, *_error: object) -> None:
        self.retain("status", None)
        self.retain("card", None)
        self._client.disconnect()
        self._client.loop_stop()

    def answer(self, request: dict[str, Any], text: str = TEXT, **fields: Any) -> None:
        """Publishes a final."""
        final = {"id": request["id"], "status": 200, "text": text, "finish_reason": "stop", "node": self.name}
        self.say(request, "final", final | fields)

    def delta(self, request: dict[str, Any], seq: int, text: str = "") -> None:
        """Publishes a piece, or with seq 0 the acceptance."""
        accepted = {"id": request["id"], "seq": 0, "node": self.name, "queue": 0, "model": "m@1"}
        piece = {"id": request["id"], "seq": seq, "text": text, "n": 1}
        self.say(request, "delta", piece if seq else accepted)

    def say(self, request: dict[str, Any], kind: str, message: dict[str, Any]) -> None:
        """Publishes on an answer topic of the one who asked."""
        client = self.topics[-1].rpartition("/")[2]
        payload = json.dumps(message)
        self._client.publish(self._path(f"client/{client}/rx/{request['id']}/{kind}"), payload, int(kind == "final"))

    def retain(self, what: str, message: dict[str, Any] | None) -> None:
        """Publishes status or card, or deletes it, and waits until the broker has it."""
        payload = json.dumps(message) if message is not None else b""
        info = self._client.publish(self._path(f"node/{self.name}/{what}"), payload, 1, retain=True)
        info.wait_for_publish(WAIT_S)

    def _path(self, rest: str) -> str:
        return f"shoal/v1/{self.fleet}/{rest}"

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        payload = json.loads(message.payload)
        if "/cancel/" in message.topic:
            self.cancels.put(payload)
        else:
            self.topics.append(message.topic)
            self.requests.put(payload)
            self.script(self, payload)


def _heed_interrupts() -> None:
    """Ctrl-C works in a child also when these tests run in the background, where shells make it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Fleet:
    """The command, set to one broker and to a fleet of this test's own."""

    host: str
    port: int
    name: str

    def start(self, *arguments: str, stdin: str | None = None) -> "subprocess.Popen[str]":
        """Starts the command."""
        broker = ["--broker", f"mqtt://{self.host}:{self.port}", "--fleet", self.name]
        process = subprocess.Popen(
            [sys.executable, "-m", "fleet", *broker, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509  # it only sets a signal's action
        )
        assert process.stdin is not None
        if stdin is not None:
            process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Runs the command; returns exit code, output and errors."""
        with self.start(*arguments, stdin=stdin) as process:
            out, err = process.communicate(timeout=WAIT_S)
            return process.returncode, out, err

    def node(self, script: Callable[[Node, dict[str, Any]], None] | None = None, name: str = "n1") -> Node:
        """A node of this fleet."""
        node = Node(self.host, self.port, self.name, name)
        if script is not None:
            node.script = script
        return node


@pytest.fixture
def fleet(broker: Broker) -> Fleet:
    """The command with a fleet that no other test uses."""
    return Fleet(broker.host, broker.port, f"f-{secrets.token_hex(8)}")


def status_of(state: str, sess: int = 1) -> dict[str, Any]:
    """A presence message."""
    return {"s": state, "sess": sess, "ts": time.time_ns() // 1_000_000}


def card_of(node: str) -> dict[str, Any]:
    """A card as a small node would send it."""
    model = {
        "name": "tiny",
        "version": "1.0",
        "sha256": "0" * 64,
        "bytes": 1,
        "architecture": "llama",
        "context_tokens": 2048,
        "parallel": 4,
    }
    return {
        "node": node,
        "versions": {"shoal": "0.1.0"},
        "hardware": {"machine": "m", "processor": "p", "cores": 2, "ram_mib": 2048, "os": "Linux"},
        "models": [model],
        "speed": {"prefill_tok_s": 500.0, "decode_tok_s": 81.4},
        "ts": time.time_ns() // 1_000_000,
    }


# --- ask -------------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_sends_only_what_was_given(fleet: Fleet) -> None:
    """Without options the text is printed, and the request holds an id, the prompt and a deadline."""
    with fleet.node() as node:
        assert fleet.run("ask", "n1", "is the light on?") == (0, f"{TEXT}\n", "")
    request = node.requests.get_nowait()
    assert request.keys() == {"id", "prompt", "ttl_ms"}
    assert request["prompt"] == "is the light on?"
    assert request["ttl_ms"] == pytest.approx(60_000, abs=5_000)


def test_ask_sends_every_option_in_the_words_of_the_contract(fleet: Fleet, tmp_path: Path) -> None:
    """Options become the fields of the request; the client is in the topic."""
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    options = [
        "--system",
        "be brief",
        "--model",
        "tiny@1",
        "--no-adapter",
        "--max-tokens",
        "9",
        "--seed",
        "3",
    ]
    options += [
        "--temperature",
        "0",
        "--priority",
        "9",
        "--client",
        "me",
        "--ttl",
        "20",
        "--schema",
        str(file),
    ]
    with fleet.node() as node:
        assert fleet.run("ask", "n1", "-", *options, stdin="is it on?")[0] == 0
    request = node.requests.get_nowait()
    del request["id"], request["ttl_ms"]
    assert request == {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "is it on?"}],
        "model": "tiny@1",
        "adapter": None,
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
        "priority": 9,
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }
    assert node.topics == [f"shoal/v1/{fleet.name}/node/n1/req/me"]


@pytest.mark.parametrize("order", [[1, 2, 3, 4], [1, 3, 4], [2, 1, 1, 4, 3, 3], [4], []])
def test_a_streamed_answer_is_whole_whatever_happens_to_its_pieces(fleet: Fleet, order: list[int]) -> None:
    """Pieces that are lost, doubled or out of order are repaired from the final."""
    pieces = {1: "The light ", 2: "is on, and ", 3: "the blinds ", 4: "are closed."}

    def script(node: Node, request: dict[str, Any]) -> None:
        for seq in [0, *order]:
            node.delta(request, seq, pieces.get(seq, ""))
        node.answer(request, last_seq=4)

    with fleet.node(script):
        assert fleet.run("ask", "n1", "?", "--stream") == (0, f"{TEXT}\n", "")


def test_pieces_are_printed_before_the_answer_is_complete(fleet: Fleet) -> None:
    """With --stream the first piece is on standard output while the node is still at work."""
    printed = threading.Event()

    def script(node: Node, request: dict[str, Any]) -> None:
        node.delta(request, 1, "The light\n")

        def finish() -> None:
            printed.wait(WAIT_S)
            node.answer(request, "The light\nis on.")

        threading.Thread(target=finish).start()

    with fleet.node(script), fleet.start("ask", "n1", "?", "--stream") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "The light\n"
        printed.set()
        assert process.communicate(timeout=WAIT_S) == ("is on.\n", "")


def test_an_answer_that_was_made_again_is_shown_whole(fleet: Fleet) -> None:
    """When the final does not continue what was shown, all of it is printed after a remark."""

    def script(node: Node, request: dict[str, Any]) -> None:
        node.delta(request, 1, "The lamp ")
        node.answer(request)

    with fleet.node(script):
        code, out, _ = fleet.run("ask", "n1", "?", "--stream")
    assert code == 0
    assert out.startswith("The lamp \n[")
    assert out.endswith(f"\n{TEXT}\n")


def test_json_prints_the_final_as_the_node_sent_it(fleet: Fleet) -> None:
    """--json prints one line with every field, also those that this version does not know."""
    with fleet.node(lambda node, request: node.answer(request, news=[1])):
        code, out, err = fleet.run("ask", "n1", "?", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["text"] == TEXT
    assert json.loads(out)["news"] == [1]


def test_json_with_stream_prints_a_line_for_each_message(fleet: Fleet) -> None:
    """Acceptance, pieces and final are one line of JSON each."""

    def script(node: Node, request: dict[str, Any]) -> None:
        node.delta(request, 0)
        node.delta(request, 1, TEXT)
        node.answer(request)

    with fleet.node(script):
        code, out, _ = fleet.run("ask", "n1", "?", "--json", "--stream")
    messages = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [m.get("seq") for m in messages] == [0, 1, None]
    assert messages[-1]["status"] == 200


def test_an_error_of_the_node_is_one_sentence_and_exit_code_1(fleet: Fleet) -> None:
    """The node's own message, its status and when to try again stand on standard error; output stays empty."""
    error = {"code": "queue", "message": "cannot queue more than 64 requests", "retry_after_ms": 2500}
    with fleet.node(lambda node, request: node.answer(request, status=429, error=error)):
        code, out, err = fleet.run("ask", "n1", "?")
    assert (code, out) == (1, "")
    assert err == "fleet: cannot queue more than 64 requests (status 429; try again in 2.5 s)\n"


def test_an_error_is_json_too(fleet: Fleet) -> None:
    """With --json the final with the error is on standard output, and the exit code is 1."""
    error = {"code": "model", "message": "no such model"}
    with fleet.node(lambda node, request: node.answer(request, status=404, error=error)):
        code, out, _ = fleet.run("ask", "n1", "?", "--json")
    assert code == 1
    assert json.loads(out)["error"] == error


def test_an_answer_that_cannot_be_read_is_said_at_once(fleet: Fleet) -> None:
    """A final of the wrong form ends the command with exit code 1 instead of waiting for the deadline."""
    with fleet.node(lambda node, request: node.say(request, "final", {"id": request["id"], "status": "fine"})):
        code, out, err = fleet.run("ask", "n1", "?")
    assert (code, out) == (1, "")
    assert err.startswith("fleet: cannot read the answer of node 'n1': ")


def test_a_lost_request_is_sent_again_with_the_same_id(fleet: Fleet) -> None:
    """When nothing comes back, the same id is published again with less time left, and answered once."""

    def script(node: Node, request: dict[str, Any]) -> None:
        if len(node.topics) == 3:
            node.answer(request)

    with fleet.node(script) as node:
        assert fleet.run("ask", "n1", "?") == (0, f"{TEXT}\n", "")
    first, second, third = (node.requests.get_nowait() for _ in range(3))
    assert first["id"] == second["id"] == third["id"]
    assert first["ttl_ms"] > second["ttl_ms"] > third["ttl_ms"]


def test_nothing_is_sent_again_once_the_node_has_answered_at_all(fleet: Fleet) -> None:
    """After the acceptance there is no retry, though the answer takes longer than the first delay."""

    def script(node: Node, request: dict[str, Any]) -> None:
        node.delta(request, 0)
        threading.Timer(2.0, node.answer, [request]).start()

    with fleet.node(script) as node:
        assert fleet.run("ask", "n1", "?") == (0, f"{TEXT}\n", "")
    assert node.requests.qsize() == 1


def test_no_answer_by_the_deadline_is_exit_code_1_and_a_cancel(fleet: Fleet) -> None:
    """A node that accepts and never ends is given up at the deadline, and told so."""
    with fleet.node(lambda node, request: node.delta(request, 0)) as node:
        code, out, err = fleet.run("ask", "n1", "?", "--ttl", "0.5")
        request = node.requests.get_nowait()
        assert node.cancels.get(timeout=WAIT_S) == {"id": request["id"]}
    assert (code, out) == (1, "")
    assert err.startswith("fleet: cannot get an answer from node 'n1' within 0.5 s: it accepted the request")


def test_an_unknown_node_is_warned_about_at_once_and_still_waited_for(fleet: Fleet) -> None:
    """Without card and status there is a warning right away; a node that appears later gets the retry."""
    with fleet.start("ask", "n1", "?") as process:
        assert process.stderr is not None
        assert "node 'n1' never reported" in process.stderr.readline()
        with fleet.node():
            assert process.communicate(timeout=WAIT_S)[0] == f"{TEXT}\n"
        assert process.returncode == 0


@pytest.mark.parametrize("state", ["lost", "offline"])
def test_a_node_that_is_away_is_warned_about(fleet: Fleet, state: str) -> None:
    """The retained status of a node that is lost or offline is shown on standard error."""
    with fleet.node() as node:
        node.retain("status", status_of(state))
        code, out, err = fleet.run("ask", "n1", "?")
    assert (code, out) == (0, f"{TEXT}\n")
    assert err == f"fleet: warning: node 'n1' is {state}; waiting for it until the deadline\n"


def test_ctrl_c_cancels_the_request(fleet: Fleet) -> None:
    """SIGINT in the middle of an answer publishes a cancel with the same id and ends with 130."""
    with fleet.node(lambda node, request: node.delta(request, 1, "The light\n")) as node:
        with fleet.start("ask", "n1", "?", "--stream") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "The light\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=WAIT_S)
        assert node.cancels.get(timeout=WAIT_S) == {"id": node.requests.get_nowait()["id"]}
    assert process.returncode == 130
    assert err == "fleet: interrupted\n"


def test_a_pool_is_asked_through_its_own_topic(fleet: Fleet) -> None:
    """With --pool any member answers, and says so in the final."""
    with fleet.node() as node:
        assert fleet.run("ask", "--pool", "p1", "?", "--client", "me") == (0, f"{TEXT}\n", "")
    assert node.topics == [f"shoal/v1/{fleet.name}/pool/p1/req/me"]


def test_a_pool_without_members_is_warned_about(fleet: Fleet) -> None:
    """An MQTT 5 broker says that nobody subscribes: that is passed on."""
    code, _, err = fleet.run("ask", "--pool", "p9", "?", "--ttl", "0.2")
    assert code == 1
    assert err.startswith("fleet: warning: pool 'p9' has no member")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["ask", "No/Node", "?"], "cannot use node 'No/Node'"),
        (["ask", "n1", "  "], "cannot send an empty prompt"),
        (["ask", "n1", "?", "--max-tokens", "0"], "cannot accept max_tokens = 0"),
        (["ask", "n1", "?", "--ttl", "0"], "cannot use --ttl 0"),
        (["ask", "n1", "?", "--client", "+"], "cannot use --client '+'"),
        (["ask", "n1", "?", "--schema", "/no/such/file"], "cannot read --schema '/no/such/file'"),
        (["ask", "n1", "?", "--schema", "{"], "cannot read --schema '{' as JSON"),
        (["ask", "n1", "?", "--schema", '{"type": "word"}'], "cannot accept response_format"),
        (["ask", "n1", "?", "--adapter", "a", "--no-adapter"], "cannot use --adapter a with --no-adapter"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(fleet: Fleet, arguments: list[str], what: str) -> None:
    """What cannot be meant is refused before anything is published."""
    code, out, err = fleet.run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"fleet: {what}")
    assert err.count("\n") == 1


# --- the broker ------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("arguments", [["ask", "n1", "?"], ["status"]])
def test_without_a_broker_there_is_one_sentence_and_exit_code_4(arguments: list[str]) -> None:
    """The address, the reason and what to do are said."""
    port = free_port()
    code, out, err = Fleet("127.0.0.1", port, "home").run(*arguments)
    assert (code, out) == (4, "")
    assert err == (
        f"fleet: cannot reach the broker at 127.0.0.1:{port}: connection refused; "
        "start it or name another with --broker\n"
    )


@pytest.fixture
def embedded_broker() -> Iterator[int]:
    """The trial broker in a process of its own; its port."""
    port = free_port()
    command = [sys.executable, "-m", "fleet.embedded_broker", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
        yield port
        process.terminate()
        assert process.communicate(timeout=WAIT_S) == ("", "")
        assert process.returncode == 0


def test_ask_and_status_work_with_the_embedded_broker(embedded_broker: int) -> None:
    """A broker with MQTT 3.1.1 only is enough for both; it ends cleanly and without a word."""

    def script(node: Node, request: dict[str, Any]) -> None:
        node.delta(request, 1, TEXT[:5])
        node.answer(request)

    fleet = Fleet("127.0.0.1", embedded_broker, "home")
    node = fleet.node(script)
    node.protocol = MQTTProtocolVersion.MQTTv311
    with node:
        assert fleet.run("ask", "n1", "?", "--stream") == (0, f"{TEXT}\n", "")
        assert fleet.run("status")[1].startswith("1 node: 1 online\n")


class Relay:
    """A TCP relay in front of a broker: it can hang up on MQTT 5, and cut every connection."""

    def __init__(self, broker: Broker, *, refuses_mqtt_5: bool = False) -> None:
        self._to = (broker.host, broker.port)
        self._refuses_mqtt_5 = refuses_mqtt_5
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cuts every connection; new ones are accepted."""
        open_now, self._open = self._open, []
        for end in open_now:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cuts everything and accepts no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                # The level is the ninth byte of a CONNECT whose length takes one byte.
                if self._refuses_mqtt_5 and client.recv(9, socket.MSG_PEEK | socket.MSG_WAITALL)[8] == 5:
                    client.close()
                    continue
                server = socket.create_connection(self._to)
                self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


def test_a_broker_that_hangs_up_on_mqtt_5_is_used_with_3_1_1(broker: Broker, fleet: Fleet) -> None:
    """Old brokers close the connection without a CONNACK; the second attempt uses MQTT 3.1.1."""
    relay = Relay(broker, refuses_mqtt_5=True)
    with fleet.node(), contextlib.closing(relay):
        assert Fleet("127.0.0.1", relay.port, fleet.name).run("ask", "n1", "?") == (0, f"{TEXT}\n", "")


def test_an_answer_sent_while_the_connection_was_down_still_arrives(broker: Broker, fleet: Fleet) -> None:
    """The broker keeps the final for the session, and the command connects again by itself."""
    relay = Relay(broker)

    def script(node: Node, request: dict[str, Any]) -> None:
        if len(node.topics) == 1:
            relay.cut()
            node.answer(request)

    with fleet.node(script), contextlib.closing(relay):
        assert Fleet("127.0.0.1", relay.port, fleet.name).run("ask", "n1", "?") == (0, f"{TEXT}\n", "")


# --- status ----------------------------------------------------------------------------------------------


def test_status_of_an_empty_fleet_says_what_to_check(fleet: Fleet) -> None:
    """No node at all is no failure, but there is advice."""
    code, out, err = fleet.run("status")
    assert (code, err) == (0, "")
    assert out.startswith("no nodes\n")
    assert "Is an agent running" in out


def test_status_shows_what_a_node_says_about_itself(fleet: Fleet) -> None:
    """Model, speed, context, memory and version come from the card, without colours in a pipe."""
    with fleet.node() as node:
        node.retain("card", card_of("n1"))
        code, out, err = fleet.run("status")
    assert (code, err) == (0, "")
    verdict, _, row = out.splitlines()
    assert verdict == "1 node: 1 online"
    assert re.fullmatch(r"n1 +online +\d s +tiny@1\.0 +81 +2048 +2\.0 GiB +0\.1\.0 *", row)
    assert "\x1b" not in out


def test_status_puts_the_worst_first_and_exits_with_3(fleet: Fleet) -> None:
    """Lost, offline, a card without a status, degraded, draining, online: in this order."""
    states = {"a": "online", "b": "draining", "c": "degraded", "d": None, "e": "offline", "f": "lost"}
    with contextlib.ExitStack() as stack:
        for name, state in states.items():
            node = stack.enter_context(fleet.node(name=name))
            node.retain("status", None if state is None else status_of(state))
            node.retain("card", card_of(name))
        code, out, _ = fleet.run("status")
        machine = json.loads(fleet.run("status", "--json")[1])
    assert code == 3
    verdict = "6 nodes: 1 online, 1 draining, 1 degraded, 1 unknown, 1 offline, 1 lost"
    assert out.splitlines()[0] == machine["verdict"] == verdict
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [
        ["f", "lost"],
        ["e", "offline"],
        ["d", "unknown"],
        ["c", "degraded"],
        ["b", "draining"],
        ["a", "online"],
    ]
    assert machine["healthy"] is False
    assert [(row["node"], row["ram_mib"]) for row in machine["nodes"]][:1] == [("f", 2048)]


def test_a_status_that_cannot_be_read_does_not_hide_the_others(fleet: Fleet) -> None:
    """A node that retains nonsense is shown as unknown."""
    with fleet.node(name="a"), fleet.node(name="b") as odd:
        odd.retain("status", {"s": "dancing"})
        odd.retain("card", {"node": "\x1b[31m"})
        code, out, _ = fleet.run("status")
    assert code == 3
    assert out.startswith("2 nodes: 1 online, 1 unknown\n")


def test_watch_prints_again_when_something_changes(fleet: Fleet) -> None:
    """With --watch the command stays; the will of an older connection is not believed."""
    with fleet.node() as node, fleet.start("status", "--json", "--watch") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["verdict"] == "1 node: 1 online"
        node.retain("status", status_of("draining", sess=8))
        assert json.loads(process.stdout.readline())["verdict"] == "1 node: 1 draining"
        node.retain("status", status_of("lost", sess=7))
        node.retain("card", card_of("n1"))
        changed = json.loads(process.stdout.readline())
        assert changed["verdict"] == "1 node: 1 draining"
        assert changed["nodes"][0]["model"] == "tiny@1.0"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=WAIT_S) == ("", "")
    assert process.returncode == 3


# --- demo ------------------------------------------------------------------------------------------------


def fleet_demo(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs `fleet demo` in a folder."""
    command = [sys.executable, "-m", "fleet", "demo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_stop_ends_the_recorded_processes_and_no_others(tmp_path: Path) -> None:
    """A pid is only ended when its start time is the recorded one: pids are used again."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    waits = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
    agent, bystander = (start(waits, tmp_path / f"{name}.log", os.environ) for name in ("agent", "bystander"))
    try:
        trial = Trial().with_process("agent", agent)
        save_trial(folder, trial.with_process("broker", Process(bystander.pid, "another boot:1")))
        done = fleet_demo(tmp_path, "--stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "Stopped agent.\n", "")
        assert not agent.running
        assert bystander.running
    finally:
        agent.end(0)
        bystander.end(WAIT_S)
    assert fleet_demo(tmp_path, "--stop").stdout == f"No demo is running in {folder}.\n"


def test_demo_without_a_model_says_where_one_comes_from(tmp_path: Path) -> None:
    """Nothing is started when there is no model."""
    done = fleet_demo(tmp_path, "--model-dir", "models")
    assert done.returncode == 1
    assert done.stderr == (
        "fleet: cannot take the model from models: there is no .gguf file in it; "
        "run `make demo`, or name a folder with one model\n"
    )


def test_demo_without_an_adapter_says_where_one_comes_from(tmp_path: Path) -> None:
    """Nothing is started when it is not there, or its card is no card."""
    (tmp_path / "model.gguf").touch()
    for _ in ("no card", "a broken one"):
        done = fleet_demo(tmp_path, "--model-dir", ".", "--adapter-dir", "adapters")
        assert done.returncode == 1
        assert done.stderr.startswith("fleet: cannot take the adapter home-actions from adapters: ")
        assert "name the folder with --adapter-dir" in done.stderr
        (tmp_path / "adapters").mkdir(exist_ok=True)
        (tmp_path / "adapters" / "home-actions.json").write_text('{"system": 1}', "utf-8")


def test_demo_does_not_take_a_port_that_is_in_use(tmp_path: Path, broker: Broker) -> None:
    """A port that was asked for and is taken is an error, and leaves nothing behind."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.gguf").touch()
    (tmp_path / "home-actions.gguf").touch()
    (tmp_path / "home-actions.json").write_text('{"system": "x", "schema": "s.json"}', "utf-8")
    (tmp_path / "s.json").write_text("{}", "utf-8")
    done = fleet_demo(tmp_path, "--model-dir", "models", "--adapter-dir", ".", "--port", str(broker.port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"fleet: cannot use port {broker.port} on 127.0.0.1: it is taken")
    assert not (tmp_path / FOLDER / "demo.json").exists()


# --- the command itself ----------------------------------------------------------------------------------


def test_version_is_text_or_json(fleet: Fleet) -> None:
    """Both forms name the same versions."""
    code, out, _ = fleet.run("version")
    versions = json.loads(fleet.run("version", "--json")[1])
    assert code == 0
    assert out.splitlines() == [f"{name} {number}" for name, number in versions.items()]


@pytest.mark.parametrize("command", ["ask", "status", "demo"])
def test_help_of_every_command_tells_its_exit_codes(fleet: Fleet, command: str) -> None:
    """The end of --help says what the exit codes mean."""
    code, out, _ = fleet.run(command, "--help")
    assert code == 0
    assert "Exit codes: 0 " in out


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong file for TLS is wrong usage, and so is one without TLS."""
    command = [
        sys.executable,
        "-m",
        "fleet",
        "--broker",
        "mqtts://127.0.0.1",
        "--ca",
        str(tmp_path / "ca.pem"),
    ]
    done = subprocess.run([*command, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fleet: cannot use --ca '{tmp_path}/ca.pem': no such file")
    command[4] = "mqtt://127.0.0.1"
    done = subprocess.run([*command, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "write mqtts://" in done.stderr
