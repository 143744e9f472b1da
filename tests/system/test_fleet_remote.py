"""The `fleet` command as a client of the HTTP API: on the controller's machine, and from elsewhere after a login."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.steering import Desired, Signed
from contract.topics import NodeDesired
from fleet.link import Incoming
from tests.fakes.controller import ControllerProcess
from tests.fakes.scripted_node import ScriptedNode
from tests.fakes.waiting import until


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("remote")).ready()
    yield running
    running.stop()


class Elsewhere:
    """A machine without the controller's folder."""

    def __init__(self, controller: ControllerProcess, home: Path) -> None:
        self.controller, self.home = controller, home
        self.file = home / ".config" / "shoal" / "fleet.toml"

    def fleet(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs the `fleet` command here."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "XDG_"))}
        return subprocess.run(
            [sys.executable, "-m", "fleet", *words], capture_output=True, text=True, timeout=120, check=False,
            cwd=self.home, env={**inherited, "HOME": str(self.home), "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip

    def login(self, token: str, digest: str = "") -> "subprocess.CompletedProcess[str]":
        """Logs in."""
        folder = self.controller.folder
        return self.fleet(
            "login", folder.url, "--token", token, "--ca-sha256", digest or folder.authority("root").digest
        )


@pytest.fixture
def elsewhere(controller: ControllerProcess, tmp_path: Path) -> Elsewhere:
    """A machine that nobody has logged in from."""
    return Elsewhere(controller, tmp_path)


def test_a_login_is_kept_for_this_user_alone(controller: ControllerProcess, elsewhere: Elsewhere) -> None:
    """Then commands work from there with the rights of the token, and no more."""
    before = elsewhere.fleet("nodes")
    assert (before.returncode, before.stdout) == (2, "")
    assert "fleet login URL" in before.stderr
    done = elsewhere.login(controller.operator("viewer"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"as viewer-\w+, viewer; stored in", done.stdout)
    assert oct(elsewhere.file.stat().st_mode & 0o777) == "0o600"
    assert elsewhere.fleet("audit").returncode == 0
    refused = elsewhere.fleet("token", "create", "--node", "n9")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "needs the role admin" in refused.stderr


def test_an_admin_elsewhere_can_do_what_the_folder_can(controller: ControllerProcess, elsewhere: Elsewhere) -> None:
    """Tokens, clients, keys, operators, revocation: with the same output."""
    elsewhere.login(controller.operator("admin"))
    line = elsewhere.fleet("token", "create", "--node", "far-n")
    digest = controller.folder.authority("root").digest
    assert re.fullmatch(
        rf"shoal-agent enroll {re.escape(controller.folder.url)} --token far-n:\S+ --ca-sha256 {digest}\n", line.stdout
    )
    client = elsewhere.fleet("client", "create", "far-c", "--tokens-per-day", "9")
    assert client.stdout.endswith(" --folder far-c\n")
    assert elsewhere.fleet("client", "key", "far-c").stdout.startswith("far-c:")
    made = elsewhere.fleet("operator", "create", "far-o", "--role", "viewer", "--ttl", "1h")
    assert made.stdout.startswith("far-o:")
    again = elsewhere.fleet("operator", "create", "far-o", "--role", "viewer")
    assert (again.returncode, again.stdout) == (1, "")
    assert "far-o" in elsewhere.fleet("operator", "ls").stdout
    assert elsewhere.fleet("operator", "revoke", "far-o").returncode == 0
    assert elsewhere.fleet("revoke", "far-c").returncode == 0
    assert elsewhere.fleet("revoke", "nobody").returncode == 2
    assert elsewhere.fleet("operator", "create", "x", "--role", "viewer", "--save").returncode == 2


def test_tokens_and_clients_are_listed_without_their_secrets(controller: ControllerProcess) -> None:
    """A token until it is used or void; a client also when it is revoked, with what it has and may."""
    token = controller.token("new-n")
    controller.token("new-c", "--tokens-per-day", "9", role="client")
    key = controller.fleet("client", "key", "new-c").stdout.strip()
    listed = controller.fleet("token", "ls").stdout
    assert re.search(r"^new-n +node +\d{4}-", listed, re.MULTILINE)
    clients = controller.fleet("client", "ls").stdout
    assert re.search(r"^new-c +[-0-9]{10} [:0-9]{8} +- +9 +key\s*$", clients, re.MULTILINE)
    raw = controller.fleet("token", "ls", "--json").stdout + controller.fleet("client", "ls", "--json").stdout
    for text in (listed, clients, raw):
        assert not [secret for secret in (token, key) if secret.partition(":")[2] in text]
    controller.fleet("revoke", "new-n")
    controller.fleet("revoke", "new-c")
    assert "new-n" not in controller.fleet("token", "ls").stdout
    assert re.search(r"^new-c .* nothing: revoked \d{4}-", controller.fleet("client", "ls").stdout, re.MULTILINE)


def test_another_controller_is_not_trusted(controller: ControllerProcess, elsewhere: Elsewhere) -> None:
    """No token is sent to one whose root is another than was said, and nothing is stored."""
    other = elsewhere.login(controller.operator("viewer"), "0" * 64)
    assert other.returncode == 5
    assert "cannot trust" in other.stderr
    assert elsewhere.login("nobody:x").returncode == 5
    assert not elsewhere.file.exists()


def test_a_controller_that_is_away_is_one_sentence(controller: ControllerProcess, elsewhere: Elsewhere) -> None:
    """With what to do, and its own exit code."""
    elsewhere.login(controller.operator("viewer"))
    port = controller.folder.settings.https.port
    elsewhere.file.write_text(elsewhere.file.read_text().replace(f":{port}", ":9"))
    for command in (["status"], ["nodes"], ["show", "n1"], ["audit"]):
        away = elsewhere.fleet(*command)
        assert (away.returncode, away.stdout) == (4, ""), command
        assert re.fullmatch(r"fleet: cannot reach the controller at .*fleet serve.*\n", away.stderr)


def test_the_state_of_the_fleet_ends_with_3_when_something_is_wrong(controller: ControllerProcess) -> None:
    """Well with a node that is, then it is lost: verdict, age of the data, worst, why."""
    with ScriptedNode(controller, "stated") as node:
        well = controller.fleet("status")
        assert well.returncode == 0, well.stdout
        verdict, heard = well.stdout.splitlines()[:2]
        assert verdict.startswith("well: 1 node, 1 online")
        assert re.match(r"data \d+ s old", heard)
        assert controller.fleet("why", "stated").stdout.startswith("stated is well, as far as is known")
        node.vanish()
        until(lambda: controller.fleet("status").returncode == 3, "unwell fleet")
    lost = controller.fleet("status")
    assert lost.stdout.startswith("not well: 1 of 1 node; 1 lost")
    assert re.search(r"^stated +lost ", lost.stdout, re.MULTILINE)
    data = json.loads(controller.fleet("status", "--json").stdout)
    assert data["worst"][0]["node"] == "stated"
    why = controller.fleet("why", "stated")
    assert why.returncode == 3
    assert why.stdout.startswith("stated: ")
    assert "  → " in why.stdout


def test_watching_prints_again_at_each_change(controller: ControllerProcess) -> None:
    """One line of JSON for each, until Ctrl-C."""
    command = [sys.executable, "-m", "fleet", "status", "--watch", "--json"]
    env = {**os.environ, "SHOAL_FLEET_DIR": str(controller.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        before = json.loads(process.stdout.readline())["num_nodes"]
        with ScriptedNode(controller, "seen-coming"):
            while json.loads(process.stdout.readline())["num_nodes"] == before:
                pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) in (0, 3)


def test_nodes_are_listed_by_query(controller: ControllerProcess) -> None:
    """With chosen columns, and a query that is none shows where."""
    with ScriptedNode(controller, "listed", site="store-9", labels={"room": "hall"}):
        found = controller.fleet("nodes", "site=store-9 and online", "--columns", "node,label.room,ram_mib,last_seen")
        assert found.returncode == 0, found.stderr
        titles, row, count = found.stdout.splitlines()
        assert titles.split() == ["node", "label.room", "ram_mib", "last_seen"]
        assert re.fullmatch(r"listed +hall +4096 +\d+ s *", row)
        assert count.startswith("1 node; data ")
        assert json.loads(controller.fleet("nodes", "node=listed", "--json").stdout)["nodes"][0]["site"] == "store-9"
        shown = controller.fleet("show", "listed")
        assert re.search(r"^labels +room=hall$", shown.stdout, re.MULTILINE)
        for words in (
            ["nodes", "site="],
            ["nodes", "--columns", "wings"],
            ["nodes", "--sort", "wings"],
            ["show", "none"],
        ):
            wrong = controller.fleet(*words)
            assert (wrong.returncode, wrong.stdout) == (2, ""), words
            assert wrong.stderr.startswith("fleet: cannot ")
        _, line, caret = controller.fleet("nodes", "online and sit=a").stderr.splitlines()
        assert line[caret.index("^") :] == "sit=a"


def wished(node: ScriptedNode) -> Desired:
    """The document that the broker keeps for a node."""
    with node.controller.watch() as link:
        link.subscribe({NodeDesired(node.name).path("home"): 1})
        incoming: Incoming | None = link.next(20)
        assert incoming is not None
        return json_of(incoming.payload)


def json_of(payload: bytes) -> Desired:
    """What is in a signed document."""
    import msgspec

    return msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=Desired)


def test_setting_waits_for_nodes_that_are_there(controller: ControllerProcess) -> None:
    """Until they report; a failure is 3, no report in time 1; values are JSON where they can be."""
    with ScriptedNode(controller, "told") as node:
        in_vain = controller.fleet("set", "told", "log.level=debug", "limits.queue=7", "--timeout", "1")
        assert in_vain.returncode == 1
        assert "told is not done" in in_vain.stdout
        document = wished(node)
        assert document.settings == {"log.level": "debug", "limits.queue": 7}
        node.report(document.rev)
        done = controller.fleet("set", "told", "log.level=debug")
        assert (done.returncode, done.stdout) == (0, f"Done: told (revision {document.rev}).\n")
        controller.fleet("set", "told", "log.level=", "--no-wait")
        document = wished(node)
        assert document.settings == {"limits.queue": 7}
        node.report(document.rev, "failed", error="cannot do it")
        failed = controller.fleet("set", "--query", "node=told", "log.level=")
        assert failed.returncode == 3
        assert "told could not do it (failed): cannot do it" in failed.stdout


def test_what_is_wished_of_a_node_that_is_away_waits(controller: ControllerProcess) -> None:
    """The command says so and is done."""
    controller.token("away")
    told = controller.fleet("set", "away", "--model", "m", "--adapter", "a", "--adapter", "b")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("Not there now: away (revision 1)")
    with ScriptedNode(controller, "away") as node:
        document = wished(node)
    assert (document.model, document.adapters) == ("m", ["a", "b"])


@pytest.mark.parametrize(
    "words",
    [
        ["set"], ["set", "log.level=debug"], ["set", "n", "x", "--query", "online"], ["set", "none", "log.level=debug"],
        ["set", "told", "log.levle=debug"], ["set", "told", "log.level=debug", "log.level=info"],
        ["group", "policy", "none", "log.level=info"], ["group", "save", "NO", "online"], ["cmd", "none", "logs"],
        ["cmd", "told", "dance"],
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_wrong_usage(controller: ControllerProcess, words: list[str]) -> None:
    """One sentence, nothing done."""
    wrong = controller.fleet(*words)
    assert (wrong.returncode, wrong.stdout) == (2, ""), words
    assert wrong.stderr.startswith("fleet: cannot ")


def test_what_is_no_id_does_not_lead_to_another_route(controller: ControllerProcess, elsewhere: Elsewhere) -> None:
    """Every command that takes an id: wrong usage, and nothing is asked; above all nobody else is revoked."""
    victim = controller.operator("viewer").partition(":")[0]
    elsewhere.login(controller.operator("admin"))
    for words in (
        ["revoke", f"../operators/{victim}"],
        ["operator", "revoke", f"../operators/{victim}"],
        ["show", "../operators"],
        ["why", "../operators?x="],
        ["forget", "../operators/x"],
        ["client", "key", "app/../app"],
        ["group", "rm", "hall/policy"],
        ["group", "save", "hall#", "online"],
        ["group", "policy", "%2e%2e"],
        ["cmd", "..", "logs"],
    ):
        wrong = elsewhere.fleet(*words)
        assert (wrong.returncode, wrong.stdout) == (2, ""), words
        assert re.fullmatch(r"fleet: cannot find '.*': an id is .*\n", wrong.stderr), wrong.stderr
    found = json.loads(elsewhere.fleet("operator", "ls", "--json").stdout)
    assert [one["revoked_ms"] for one in found if one["name"] == victim] == [None]


def test_a_command_shows_what_came_of_it(controller: ControllerProcess) -> None:
    """From a node that is there; one that is not gets nothing."""
    with ScriptedNode(controller, "handy"):
        done = controller.fleet("cmd", "handy", "logs", 'lines=["one","two"]')
        assert (done.returncode, done.stdout) == (0, "one\ntwo\n")
    until(lambda: controller.fleet("nodes", "node=handy and not online", "--json").stdout.count("handy"), "end of it")
    gone = controller.fleet("cmd", "handy", "selftest")
    assert gone.returncode == 1
    assert "cannot have handy do selftest: it is not connected" in gone.stderr


def test_a_group_has_a_query_and_a_policy(controller: ControllerProcess) -> None:
    """Saved, listed, given settings, deleted."""
    assert controller.fleet("group", "save", "hall", "label.room=hall").returncode == 0
    assert "has revision 1" in controller.fleet("group", "policy", "hall", "log.level=info").stdout
    (group,) = json.loads(controller.fleet("group", "ls", "--json").stdout)
    assert (group["name"], group["settings"]) == ("hall", {"log.level": "info"})
    assert controller.fleet("group", "rm", "hall").returncode == 0
    assert json.loads(controller.fleet("group", "ls", "--json").stdout) == []


def test_commands_load_nothing_that_they_do_not_need() -> None:
    """`fleet status` starts in a moment: no database, no MQTT, no certificates."""
    look = (
        "import sys, json; sys.argv = ['fleet', 'status', '--dir', '/nonexistent']\n"
        "from fleet.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded & {"sqlalchemy", "paho", "cryptography", "starlette", "structlog", "rich", "apscheduler"} == set()
