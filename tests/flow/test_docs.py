"""The documents are true: their commands run, their files, targets and subcommands exist.

In docs/protocol.md the word behind ```sh says what a block is: `listen` runs in the background for the whole page,
`run` is executed, `pool` is executed with a second node in the pool, `embed` with a node that makes embeddings. A
```text block behind it shows what comes out: `heard` by the listener, or `printed` by the block itself. Outputs are
compared in form: the numbers and the words of a model vary.
"""

import json
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

import agent.cli
import fleet.cli
from contract import topics
from contract.answers import Final
from contract.requests import Request
from contract.topics import parse
from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto, free_port
from tests.fakes.node import AgentProcess

PROTOCOL = Path("docs/protocol.md")
README = Path("README.md")
PAGES = sorted([README, *Path("docs").rglob("*.md")])
WAIT_S = 90.0

# Values that are the same every time; all other numbers and the model's words are compared by type alone.
FIXED = {"id", "status", "seq", "code", "message", "node", "model", "adapter", "served_by", "energy", "s", "queue"}
# May be missing, or null: a request that was stopped early has no first token.
EARLY = {"confidence", "first_token_ms"}


@dataclass
class Example:
    """A block that is executed, and the form of what comes out."""

    kind: str
    script: str
    heard: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)


def blocks(path: Path) -> Iterator[tuple[str, str, str]]:
    """The fenced blocks of a page, each with its section's title and its info string."""
    section, info, lines = "", None, list[str]()
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("```"):
            if info is None:
                info, lines = line[3:], []
            else:
                yield section, info, "\n".join(lines)
                info = None
        elif info is not None:
            lines.append(line)
        elif line.startswith("## "):
            section = line[3:]


def examples() -> dict[str, list[Example]]:
    """The executed blocks of the protocol page by section."""
    found: dict[str, list[Example]] = {}
    last: Example | None = None
    for section, info, text in blocks(PROTOCOL):
        language, _, kind = info.partition(" ")
        if language == "sh":
            last = Example(kind, text)
            found.setdefault(section, []).append(last)
        elif language == "text" and last is not None:
            setattr(last, kind, text.splitlines())
    return found


EXAMPLES = examples()


class Listener:
    """The page's listener in the background."""

    def __init__(self, script: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["sh", "-euc", f"exec {script}"], env=environment, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def wait_subscribed(self, client: IotClient) -> None:
        """Returns when what is published now is heard."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            client.publish("client/kiosk/probe", b"x")
            try:
                self._lines.get(timeout=0.2)
            except queue.Empty:
                continue
            self.settle(client)
            return
        raise AssertionError("the listener hears nothing")

    def settle(self, client: IotClient) -> list[str]:
        """Takes out everything that was published up to now, and returns it."""
        client.publish("client/kiosk/settled", b"x")
        lines = []
        while not (line := self._lines.get(timeout=WAIT_S)).endswith("/settled x"):
            lines.append(line)
        return lines

    def hear(self, wanted: list[str], client: IotClient) -> None:
        """Waits for messages of this form, and checks that nothing else comes.

        Raises:
            AssertionError: they do not come, or more does.
        """
        messages: list[str] = []
        deadline = time.monotonic() + WAIT_S
        while not has_form(wanted, messages):
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError("heard\n" + "\n".join(messages) + "\nand not\n" + "\n".join(wanted)) from None
            if line.startswith(topics.ROOT):
                messages.append(line)
            else:  # a model's answer may have several lines
                messages[-1] += f"\n{line}"
        more = [line for line in self.settle(client) if line.startswith(topics.ROOT)]
        assert not more, more

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)


def has_form(wanted: list[str], lines: list[str]) -> bool:
    """Whether `lines` are as documented. A line `…` stands for any number of lines."""
    if not wanted:
        return not lines
    if wanted[0] == "…":
        return any(has_form(wanted[1:], lines[count:]) for count in range(len(lines) + 1))
    return bool(lines) and line_has_form(wanted[0], lines[0]) and has_form(wanted[1:], lines[1:])


def line_has_form(wanted: str, line: str) -> bool:
    """Whether a topic and its payload, or a payload alone, are as documented."""
    topic, payload = re.match(r"(?s)(shoal/\S+ )?(.*)", wanted).groups()  # type: ignore[union-attr]  # always matches
    got_topic, got_payload = re.match(r"(?s)(shoal/\S+ )?(.*)", line).groups()  # type: ignore[union-attr]  # always matches
    if not fits(topic or "", got_topic or ""):
        return False
    try:
        return same_form(json.loads(payload), json.loads(got_payload))
    except ValueError:
        words = "…" not in payload and not payload.startswith(("error ", "{"))
        return bool(got_payload) and not got_payload.startswith("error ") if words else fits(payload, got_payload)


def fits(wanted: str, text: str) -> bool:
    """Whether `text` is `wanted`, in which `…` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), text, re.DOTALL) is not None


def same_form(wanted: Any, value: Any, name: str = "") -> bool:
    """Whether a JSON value has the documented one's fields and types, and its values where they never change."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        if (wanted.keys() ^ value.keys()) - EARLY:
            return False
        return all(same_form(wanted[key], value[key], key) for key in wanted.keys() & value.keys())
    if name in FIXED:
        return fits(wanted, value) if isinstance(wanted, str) and isinstance(value, str) else bool(wanted == value)
    if name in EARLY and None in (wanted, value):
        return True
    numbers = (int, float)
    return (isinstance(wanted, numbers) and isinstance(value, numbers)) or type(wanted) is type(value)


def run(script: str, environment: dict[str, str]) -> list[str]:
    """The lines that a block prints."""
    done = subprocess.run(
        ["sh", "-euc", script], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def environment(broker: Mosquitto) -> dict[str, str]:
    """What the page's commands need."""
    return {"PATH": os.environ["PATH"], "HOST": broker.host, "PORT": str(broker.port)}


@pytest.fixture(scope="module")
def prober(broker: Mosquitto) -> Iterator[IotClient]:
    """A client of the page's broker."""
    running = IotClient(broker.port, client="prober")
    yield running
    running.close()


@pytest.fixture(scope="module")
def listener(environment: dict[str, str], prober: IotClient) -> Iterator[Listener]:
    """The page's listener, subscribed."""
    (listen,) = [example for found in EXAMPLES.values() for example in found if example.kind == "listen"]
    running = Listener(listen.script, environment)
    running.wait_subscribed(prober)
    yield running
    running.stop()


@pytest.fixture
def pool_member(broker: Mosquitto, model: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    """The page's second node."""
    running = AgentProcess(tmp_path, broker.port, model, node="n2").start(SHOAL_NODE_POOLS="cellar")
    watcher = IotClient(broker.port, node="n2")
    running.wait_online(watcher)
    watcher.close()
    yield running
    running.stop()


@pytest.fixture
def embedding_node(broker: Mosquitto, embedding_model: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    """The page's node that makes embeddings."""
    running = AgentProcess(tmp_path, broker.port, embedding_model, node="n3").start(SHOAL_MODEL_NAME="minilm")
    watcher = IotClient(broker.port, node="n3")
    running.wait_online(watcher)
    watcher.close()
    yield running
    running.stop()


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("section", [name for name in EXAMPLES if name != "Try it"])
def test_the_protocol_page_is_true(
    section: str,
    listener: Listener,
    prober: IotClient,
    environment: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    """Every command of the page does what the page shows."""
    listener.settle(prober)
    for example in EXAMPLES[section]:
        if example.kind == "pool":
            request.getfixturevalue("pool_member")
        if example.kind == "embed":
            request.getfixturevalue("embedding_node")
        printed = run(example.script, environment)
        if example.heard:
            listener.hear(example.heard, prober)
        listener.settle(prober)
        assert has_form(example.printed, printed), printed


def test_every_shell_block_of_the_protocol_page_is_executed() -> None:
    """None is left out by a slip in its mark."""
    for section, found in EXAMPLES.items():
        for example in found:
            assert example.kind in ("listen", "run", "pool", "embed"), (section, example.script)
            assert example.kind == "listen" or example.heard or example.printed, (section, example.script)


def test_the_form_of_outputs_is_really_compared() -> None:
    """Another status, a missing field, a missing line: each is noticed."""
    wanted = ['shoal/v1/home/client/c/rx/a/final {"id":"a","status":200,"text":"yes","confidence":1}', "…"]
    assert has_form(wanted, ['shoal/v1/home/client/c/rx/a/final {"id":"a","status":200,"text":"no"}', "more"])
    assert not has_form(wanted, ['shoal/v1/home/client/c/rx/a/final {"id":"a","status":500,"text":"no"}'])
    assert not has_form(wanted, ['shoal/v1/home/client/c/rx/a/final {"id":"a","status":200}'])
    assert not has_form(wanted, ['shoal/v1/home/client/c/rx/b/final {"id":"a","status":200,"text":"no"}'])
    assert not has_form(wanted, [])
    assert not has_form(["error 400: x"], ["error 400: y"])
    assert has_form(["words of a model"], ["others"])
    assert not has_form(["words of a model"], ["error 500: the engine failed"])


def test_every_field_is_in_the_protocol_page() -> None:
    """Somebody who reads the page knows all fields of requests and finals."""
    page = PROTOCOL.read_text("utf-8")
    for name in (*Request.__struct_fields__, *Final.__struct_fields__):
        assert f"`{name}`" in page, name


def test_every_topic_in_a_document_is_one() -> None:
    """Examples use topics that a node would understand."""
    for page in PAGES:
        for topic in re.findall(r"shoal/v1/home/[^\s'\"`,]*", page.read_text("utf-8")):
            if not any(c in topic for c in "+#%{…") and "/client/" not in topic:
                parse(topic)


# The broker's access rules, on a broker that has them.


class User:
    """Somebody at a broker with access rules."""

    def __init__(self, port: int, name: str) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.username_pw_set(name, f"secret of {name}")
        self._codes: queue.Queue[int] = queue.Queue()
        self.heard: queue.Queue[str] = queue.Queue()
        subscribed = threading.Event()
        self._client.on_publish = lambda *args: self._codes.put(args[3].value)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda *args: self.heard.put(args[2].topic)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("shoal/#", 1)
        assert subscribed.wait(20)

    def may_write(self, topic: str, payload: str = "x") -> bool:
        """Publishes; returns whether the broker permits it."""
        self._client.publish(topic, payload, 1)
        return self._codes.get(timeout=20) < 128

    def hears(self, topic: str) -> bool:
        """Whether the next message that arrives is on `topic`."""
        return self.heard.get(timeout=WAIT_S) == topic

    def close(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def guarded_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with the page's settings and access rules, and a password for everybody."""
    conf = {info: text for _, info, text in blocks(PROTOCOL)}
    (tmp_path / "shoal.acl").write_text(conf["conf acl"] + "\n")
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    for name in ("n1", "kiosk", "lamp", "operator"):
        subprocess.run(["mosquitto_passwd", "-b", passwords, name, f"secret of {name}"], check=True, timeout=20)
    running = Mosquitto(tmp_path, free_port())
    settings = conf["conf mosquitto"].replace("listener 1883", f"listener {running.port} 127.0.0.1")
    settings = re.sub(r"/etc/mosquitto/|/var/lib/mosquitto/", f"{tmp_path}/", settings)
    # Started by root, mosquitto would become a user who may not read here.
    running._config.write_text(settings + ("\nuser root\n" if os.geteuid() == 0 else "\n"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def guarded_node(guarded_broker: Mosquitto, model: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    """A node that logs in under its own name."""
    password = tmp_path / "password"
    password.write_text("secret of n1\n")
    running = AgentProcess(tmp_path, guarded_broker.port, model)
    running.start(SHOAL_BROKER_USERNAME="n1", SHOAL_BROKER_PASSWORD_FILE=str(password), SHOAL_NODE_POOLS="cellar")
    yield running
    running.stop()


@pytest.mark.usefixtures("guarded_node")
def test_a_node_and_its_clients_can_work_under_the_documented_access_rules(guarded_broker: Mosquitto) -> None:
    """Plain, JSON, pool: all that the page shows gets through, and the operator sees the node."""
    root = "shoal/v1/home"
    operator, kiosk, lamp = (User(guarded_broker.port, name) for name in ("operator", "kiosk", "lamp"))
    seen: set[str] = set()
    while not {f"{root}/node/n1/status", f"{root}/node/n1/card"} <= seen:
        seen.add(operator.heard.get(timeout=WAIT_S))
    requests = {
        f"{root}/node/n1/req/kiosk": ("Say yes.", f"{root}/client/kiosk/answer"),
        f"{root}/pool/cellar/req/kiosk": (
            '{"id":"r1","prompt":"Say yes.","max_tokens":4}',
            f"{root}/client/kiosk/rx/r1/final",
        ),
    }
    for topic, (payload, answer) in requests.items():
        assert kiosk.may_write(topic, payload)
        assert kiosk.hears(answer)
    assert lamp.heard.empty()
    for user in (operator, kiosk, lamp):
        user.close()


def test_the_documented_access_rules_forbid_what_they_should(guarded_broker: Mosquitto) -> None:
    """Nobody speaks for somebody else; a node does not write what the controller writes."""
    root = "shoal/v1/home"
    node, kiosk, lamp, operator = (User(guarded_broker.port, name) for name in ("n1", "kiosk", "lamp", "operator"))
    forbidden = {
        kiosk: ["node/n1/req/lamp", "node/n1/status", "client/lamp/answer", "client/kiosk/answer", "node/n1/desired"],
        node: ["node/n1/desired", "node/n1/cmd", "node/n2/status", "node/n2/req/kiosk", "ctl/status"],
        operator: ["node/n1/desired", "client/kiosk/answer"],
    }
    for user, forbidden_topics in forbidden.items():
        for topic in forbidden_topics:
            assert not user.may_write(f"{root}/{topic}"), topic
    assert node.may_write(f"{root}/client/lamp/rx/r1/final")
    assert lamp.hears(f"{root}/client/lamp/rx/r1/final")
    assert kiosk.heard.empty()
    assert operator.hears(f"{root}/client/lamp/rx/r1/final")
    for user in (node, kiosk, lamp, operator):
        user.close()


# Commands, targets, files.


def commands(app: typer.Typer, program: str) -> list[str]:
    """All subcommands, as they are typed."""

    def below(command: Any, path: str) -> Iterator[str]:
        children = getattr(command, "commands", {})
        if not children:
            yield path
        for name, child in children.items():
            yield from below(child, f"{path} {name}")

    return list(below(typer.main.get_command(app), program))


COMMANDS = commands(agent.cli.app, "shoal-agent") + commands(fleet.cli.app, "fleet")


def test_every_command_is_documented() -> None:
    """A new subcommand comes with a line in the README or in docs/."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    missing = [command for command in COMMANDS if f"`{command}" not in text]
    assert len(COMMANDS) > 10
    assert not missing


def shell_lines() -> list[str]:
    """Every line of a shell block, and everything in backquotes, of all pages."""
    lines = []
    for page in PAGES:
        for _, info, text in blocks(page):
            if info.split(" ")[0] == "sh":
                lines += text.splitlines()
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    return [line for line in lines if line.strip()]


def test_every_documented_command_exists() -> None:
    """A renamed subcommand or make target does not stay in the documents."""
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text("utf-8"), re.MULTILINE))
    known = {" ".join(command.split()[:count]) for command in COMMANDS for count in (1, 2, 3, 4)}
    for line in shell_lines():
        path, *words = (line.removeprefix(".venv/bin/") or line).split()
        if path == "make":
            assert set(words) <= targets | {"KEEP=1"}, line
        while path in known - set(COMMANDS) and words and words[0].isalpha():
            path += f" {words.pop(0)}"
            assert path in known, line


def test_every_file_that_a_document_names_exists() -> None:
    """Links, and paths of this repository in backquotes."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            assert "://" in target or (page.parent / target).exists(), (page, target)
        for name in re.findall(r"`((?:agent|bench|contract|docs|fleet|tests)/[\w./-]+)`", text):
            assert Path(name).exists() or name.startswith("bench/out"), (page, name)


def test_every_link_within_a_page_leads_to_a_heading() -> None:
    """As GitHub makes the names: small letters, words joined by hyphens."""
    for page in PAGES:
        text = page.read_text("utf-8")
        headings = {
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert anchor in headings, (page, anchor)


def test_the_readme_is_what_the_package_index_shows() -> None:
    """The distribution's metadata name it."""
    assert msgspec.toml.decode(Path("pyproject.toml").read_bytes())["project"]["readme"] == "README.md"
    assert topics.ROOT in README.read_text("utf-8")
