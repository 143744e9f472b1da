"""`shoal-agent`: every command, its exit code, its JSON, and how it says what is wrong."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.mosquitto import free_port
from tests.fakes.node import AgentProcess
from tests.system.conftest import Lab

Done = subprocess.CompletedProcess[str]

COMMANDS: list[list[str]] = [
    ["run"], ["check"], ["selftest"], ["ask"], ["status"], ["version"], ["requests"], ["requests", "ls"],
    ["requests", "show"], ["requests", "purge"], ["models"], ["models", "fetch"],
    ["models", "ls"], ["models", "import"], ["models", "rm"], ["models", "verify"], ["adapters"], ["adapters", "ls"],
    ["adapters", "show"], ["adapters", "import"], ["adapters", "export"], ["adapters", "pin"], ["adapters", "unpin"],
    ["adapters", "rm"], ["adapters", "verify"], ["adapters", "gc"],
    ["quarantine"], ["quarantine", "ls"], ["quarantine", "release"],
]  # fmt: skip


def one_sentence(done: Done, code: int) -> str:
    """The error of a command that failed: this exit code, one line, and no traceback."""
    assert done.returncode == code, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("cannot ")
    return line


def together(agent: AgentProcess, commands: list[list[str]]) -> list[Done]:
    """Runs commands side by side: most of a second of each is Python's imports."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda words: agent.command(*words), commands))


def printed(done: Done) -> Any:
    """The JSON on standard output of a command that succeeded."""
    assert done.returncode == 0, done
    return json.loads(done.stdout)


@pytest.fixture
def off(lab: Lab) -> AgentProcess:
    """An agent that does not run."""
    return lab.agent()


def test_help(off: AgentProcess) -> None:
    """Every command explains itself without a configuration; the first page names them and the exit codes."""
    off.config.unlink()
    pages = together(off, [[*words, "--help"] for words in ([], *COMMANDS)])
    for done in pages:
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage:" in done.stdout
    first = " ".join(pages[0].stdout.split())
    assert all(words[0] in first for words in COMMANDS)
    assert "Exit codes: 0 fine, 1 failed or found a fault, 2 wrong usage or configuration, 3 no agent" in first


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(off: AgentProcess, shell: str) -> None:
    """The script for each shell can be shown."""
    shown = off.command("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0
    assert "complet" in shown.stdout


def test_wrong_usage_is_2(off: AgentProcess) -> None:
    """Unknown commands and options, and values that no request may have."""
    wrong = [
        ["dance"], ["status", "--yaml"], ["requests", "show", "c1"], ["requests", "ls", "--limit", "9" * 20],
        ["requests", "purge", "--older-than", "nan"], ["requests", "purge", "--older-than", "-1"],
        ["ask", ""], ["ask", "--max-tokens", "0", "hi"], ["ask", "--temperature", "nan", "hi"],
        ["ask", "--ttl", "inf", "hi"], ["ask", "--ttl", "0", "hi"], ["ask", "--seed", "9" * 20, "hi"],
        ["ask", "--schema", "{", "hi"], ["ask", "--schema", "/no/such/file", "hi"],
        ["ask", "--schema", '{"type": 5}', "hi"],
    ]  # fmt: skip
    for done in together(off, wrong):
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_version(off: AgentProcess) -> None:
    """Versions of the agent and of what it runs on, as words and as JSON."""
    words = dict(line.split(" ") for line in off.command("version").stdout.splitlines())
    assert words == printed(off.command("version", "--json"))
    assert words.keys() >= {"shoal", "python", "llama-cpp-python", "paho-mqtt"}
    assert "missing" not in words.values()


# Configuration.


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[broker]\nport = 99999\n", "line 2: [broker] port = 99999: "),
        ('[broker]\n\nport = "x"\n', "line 3: [broker] port = 'x': "),
        ("[broker]\nprot = 1883\n", "line 2: [broker] has no key 'prot'; did you mean 'port'?"),
        ("[brocker]\nport = 1\n", "line 1: there is no section [brocker]; did you mean 'broker'?"),
        ("[broker\n", "as TOML: "),
        ('[node]\nid = "UPPER"\n', "line 2: [node] id = 'UPPER': "),
        ('[node]\npools = ["a", "b/c"]\n', "line 2: [node] pools"),
        ("broker = 5\n", "broker is a section"),
        ("[engine]\nparallel = true\n", "line 2: [engine] parallel = True: "),
    ],
)
def test_bad_configuration_is_2_and_names_the_line(off: AgentProcess, text: str, complaint: str) -> None:
    """File, line, section, key, value, and what would do."""
    off.config.write_text(text)
    line = one_sentence(off.command("check"), 2)
    assert str(off.config) in line
    assert complaint in line


def test_configuration_that_cannot_be_read_is_2(off: AgentProcess, tmp_path: Path) -> None:
    """No file, a directory, or not text; from every command that needs it, and from the daemon."""
    off.config.unlink()
    assert "No such file" in one_sentence(off.command("check"), 2)
    off.config.mkdir()
    assert "directory" in one_sentence(off.command("status"), 2)
    off.config.rmdir()
    off.config.write_bytes(b"\xff\xfe[node]")
    for done in together(off, [["run"], ["ask", "hi"], ["selftest"], ["requests", "ls"]]):
        one_sentence(done, 2)


def test_environment_overrides_the_file(off: AgentProcess) -> None:
    """Each key has its variable; a wrong value is blamed on the variable."""
    port = free_port()
    found = {c["check"]: c for c in json.loads(off.command("check", "--json", SHOAL_BROKER_PORT=str(port)).stdout)}
    assert str(port) in found["broker"]["found"]
    line = one_sentence(off.command("check", SHOAL_BROKER_PORT="many"), 2)
    assert line.startswith("cannot use $SHOAL_BROKER_PORT: [broker] port = 'many': ")
    one_sentence(off.command("check", SHOAL_NODE_POOLS="good,Not good"), 2)


# check, selftest.


def test_check(agent: AgentProcess, off: AgentProcess, tmp_path: Path) -> None:
    """0 when all is well; 1 with each fault named when not; nothing is started or made."""
    good = printed(agent.command("check", "--json"))
    assert [c["check"] for c in good] == ["configuration", "model", "state directory", "broker"]
    assert all(c["ok"] for c in good)
    assert agent.command("check").stdout.count("ok  ") == 4
    done = off.command(
        "check", "--json", SHOAL_BROKER_PORT=str(free_port()), SHOAL_MODEL_FILE=str(tmp_path / "none.gguf"),
        SHOAL_NODE_STATE_DIR=str(off.config / "state"),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ""
    faults = [c["found"] for c in json.loads(done.stdout) if not c["ok"]]
    assert len(faults) == 3
    assert all(fault.startswith("cannot ") for fault in faults)
    words = off.command("check", SHOAL_BROKER_HOST="no..such", SHOAL_MODEL_SHA256="0" * 64)
    assert words.returncode == 1
    assert words.stdout.count("FAIL") == 2
    assert "Traceback" not in words.stderr
    assert not off.state_dir.exists()


def test_selftest(off: AgentProcess) -> None:
    """With a good model every test passes."""
    results = printed(off.command("selftest", "--json"))
    assert len(results) >= 5
    assert all(result["ok"] for result in results)


def test_selftest_of_a_broken_model(off: AgentProcess, model: Path, tmp_path: Path) -> None:
    """A truncated file, no model, or none at all: 1 and a sentence."""
    short, other = tmp_path / "short.gguf", tmp_path / "other.gguf"
    with model.open("rb") as whole:
        short.write_bytes(whole.read(2**20))
    other.write_bytes(b"hello")
    for file in (short, other, tmp_path / "none.gguf"):
        line = one_sentence(off.command("selftest", SHOAL_MODEL_FILE=str(file)), 1)
        assert str(file) in line


# ask.


def test_ask_the_running_agent(agent: AgentProcess) -> None:
    """Text as it comes, or the final as JSON; also from standard input and with a schema."""
    done = agent.command("ask", "--max-tokens", "5", "--temperature", "0", "Name a colour.")
    assert (done.returncode, done.stderr) == (0, "")
    final = printed(
        agent.command("ask", "-", "--max-tokens", "5", "--temperature", "0", "--json", stdin="Name a colour.")
    )
    assert final["text"] == done.stdout.rstrip("\n")
    assert final["served_by"] == "local"
    assert final["usage"]["completion_tokens"] <= 5
    schema = json.dumps({"enum": ["yes", "no"]})
    assert json.loads(agent.command("ask", "--schema", schema, "Is it warm?").stdout) in ("yes", "no")
    assert agent.records("answered", client="local")


def test_ask_without_an_agent(off: AgentProcess, agent: AgentProcess) -> None:
    """An engine of its own answers the same, and leaves nothing running; broken models are said in a sentence."""
    words = ("ask", "--max-tokens", "5", "--temperature", "0", "--json", "Name a colour.")
    alone = printed(off.command(*words))
    assert alone["text"] == printed(agent.command(*words))["text"]
    one_sentence(off.command(*words, SHOAL_MODEL_FILE="/no/such/file.gguf"), 1)


def test_ask_for_what_is_not_possible_is_1(agent: AgentProcess) -> None:
    """A prompt beyond the context, a schema that cannot be enforced, a deadline that passes."""
    assert "context" in one_sentence(agent.command("ask", "word " * 2000), 1)
    schema = '{"type": "string", "pattern": "^(?=a)b$"}'
    done = agent.command("ask", "--schema", schema, "hi")
    assert done.returncode in (1, 2)
    assert "cannot accept response_format.json_schema.schema" in " ".join(done.stderr.replace("│", " ").split())
    assert "deadline" in one_sentence(agent.command("ask", "--ttl", "0.001", "Tell me a story."), 1)


# status, requests.


def test_status(agent: AgentProcess, off: AgentProcess) -> None:
    """How it is, as words and as JSON; 3 and a sentence when no agent runs."""
    found = printed(agent.command("status", "--json"))
    assert (found["node"], found["state"], found["broker"]["connected"]) == ("n1", "online", True)
    assert found["engine"]["state"] == "ready"
    words = agent.command("status")
    assert words.returncode == 0
    assert "n1 of fleet home: online" in words.stdout
    assert "is it running?" in one_sentence(off.command("status"), 3)
    off.state_dir.mkdir()
    assert "is it running?" in one_sentence(off.command("status", "--json"), 3)


def test_requests(lab: Lab) -> None:
    """They are listed without their texts, shown with them on demand, and forgotten; a retry is then a new request."""
    node, client = lab.online()
    body = {"id": "q", "prompt": "Name a colour, zanzibar.", "max_tokens": 2}
    client.ask(body)
    text = client.final("q")["text"]
    client.ask({**body, "id": "r"})
    client.final("r")
    for state in ("running", "stopped"):
        if state == "stopped":
            node.stop()
        rows = printed(node.command("requests", "ls", "--json"))
        assert [(r["client"], r["id"], r["status"]) for r in rows] == [(client.client, n, 200) for n in ("r", "q")]
        assert len(printed(node.command("requests", "ls", "--json", "--limit", "1"))) == 1
        assert printed(node.command("requests", "ls", "--json", "--open")) == []
        assert printed(node.command("requests", "ls", "--json", "--client", "nobody")) == []
        words = node.command("requests", "ls").stdout
        assert len(words.splitlines()) == 2
        shown = node.command("requests", "show", client.client, "q", "--json").stdout
        assert "zanzibar" not in words + shown
        assert text not in json.loads(shown).values()
        full = printed(node.command("requests", "show", client.client, "q", "--texts", "--json"))
        assert full["final"]["text"] == text
        one_sentence(node.command("requests", "show", client.client, "none"), 1)
    assert node.command("requests", "purge", "--older-than", "3600").stdout == "forgot 0 requests\n"
    assert node.command("requests", "purge").stdout == "forgot 2 requests\n"
    assert node.command("requests", "ls").stdout == "no requests\n"
    node.start()
    node.wait_online(client)
    client.seen.clear()
    client.ask({**body, "prompt": "Name another colour."})
    assert client.final("q")["status"] == 200


def test_requests_without_a_journal(off: AgentProcess) -> None:
    """No agent has run there, or its file is damaged: a sentence, and looking changes nothing."""
    looks = [["requests", "ls", "--json"], ["requests", "show", "c", "q"], ["requests", "purge"]]
    for done in together(off, looks):
        assert "no agent has run there" in one_sentence(done, 1)
    off.state_dir.mkdir()
    database = off.state_dir / "agent.db"
    database.write_bytes(b"garbage" * 1000)
    for done in together(off, looks):
        one_sentence(done, 1)
    assert database.read_bytes() == b"garbage" * 1000


def test_fetch_of_a_model_that_is_there_gets_nothing(off: AgentProcess, model: Path, tmp_path: Path) -> None:
    """The file is checked against its digest, and its path printed."""
    there = tmp_path / "models" / model.name
    there.parent.mkdir()
    there.hardlink_to(model)
    done = off.command("models", "fetch", "--dir", str(there.parent), PIP_INDEX_URL="http://127.0.0.1:9/")
    assert (done.returncode, done.stdout) == (0, f"{there}\n")
    empty = tmp_path / "empty"
    done = off.command(
        "models", "fetch", "--dir", str(empty), PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_NO_INDEX="1"
    )
    assert done.returncode == 1
    assert "cannot download the default model" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(empty.iterdir()) == []
