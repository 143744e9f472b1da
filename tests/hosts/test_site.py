"""From empty hosts to an agent that answers, and what happens to it then. Each test goes on from the last."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.waiting import until
from tests.hosts.conftest import Ground
from tests.hosts.host import run

PROBE = Path("tests/hosts/engine_probe.py")
FOLDER = "/var/lib/shoal-fleet/fleet"


def recap(said: str) -> dict[str, dict[str, int]]:
    """The last lines of a play, by host."""
    lines = said.partition("PLAY RECAP")[2].splitlines()[1:]
    return {
        line.split(" : ")[0].strip(): {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}
        for line in lines
        if " : " in line
    }


def test_a_dry_run_on_empty_hosts_fails_nowhere(ground: Ground) -> None:
    """`--check --diff` says what would be done, though nothing is there that it builds on."""
    assert all(counts["failed"] == 0 for counts in recap(ground.play("site", "--check", "--diff")).values())
    assert ground.ssh(ground.device, "test -e /opt/shoal", check=False).returncode == 1


def test_one_play_makes_a_fleet(ground: Ground) -> None:
    """After it the device is enrolled, online, and well."""
    ground.play("site")
    until(lambda: ground.ssh(ground.device, "shoal-agent doctor", check=False).returncode == 0, "well agent", 120)
    shown = ground.ssh(ground.controller, f"fleet nodes --json --dir {FOLDER}").stdout
    assert [node["state"] for node in json.loads(shown)["nodes"]] == ["online"]


def test_a_second_play_changes_nothing(ground: Ground) -> None:
    """It finds everything as it should be."""
    assert {host: counts["changed"] for host, counts in recap(ground.play("site")).items()} == {
        "headquarters": 0,
        "kitchen-1": 0,
    }


@pytest.fixture(scope="module")
def asking(ground: Ground) -> list[str]:
    """The beginning of a command line that asks the device, as a client with an identity of this fleet."""
    folder = ground.folder / "tester"
    line = ground.ssh(ground.controller, f"fleet client create tester --json --dir {FOLDER}").stdout
    made = json.loads(line)
    run(
        program("shoal-agent"), "enroll", made["url"], "--token", made["token"], "--ca-sha256", made["ca_sha256"],
        "--folder", str(folder),
    )  # fmt: skip
    pem = str(folder / "identity.pem")
    broker = f"mqtts://{ground.controller.address}:8884"
    options = ["--broker", broker, "--ca", str(folder / "ca.pem"), "--cert", pem, "--key", pem]
    return [program("fleet"), *options, "ask", "kitchen-1", "--client", "tester"]


def test_it_answers_over_tls(asking: list[str]) -> None:
    """A prompt goes to the broker over TLS, and its answer comes back."""
    final = json.loads(run(*asking, "Name a colour.", "--max-tokens", "8", "--json"))
    assert final["status"] == 200
    assert final["node"] == "kitchen-1"


def test_the_engine_is_shut_in(ground: Ground) -> None:
    """What the unit allows is tried from inside: no network, no file of the agent but models, nothing to write to."""
    ground.ssh(ground.device, "cat > /run/engine_probe.py", given=PROBE.read_text("utf-8"))
    edits = {
        "ExecStart": "/usr/bin/python3 /run/engine_probe.py",
        "StandardInput": "null",
        "StandardOutput": "truncate:/run/probe.json",
        "Type": "oneshot",
    }
    script = ";".join(f"s|^{name}=.*|{name}={value}|" for name, value in edits.items())
    unit, probe = "/usr/lib/systemd/system/shoal-engine@.service", "/run/systemd/system/shoal-probe.service"
    ground.ssh(
        ground.device,
        f"sed '{script}' {unit} > {probe} && systemctl daemon-reload && systemctl start shoal-probe.service",
    )
    found = json.loads(ground.ssh(ground.device, "cat /run/probe.json").stdout)
    assert found["interfaces"] == ["lo"]
    assert found["state"] == ["models"]
    assert found["core"] == [0, 0]
    assert found["refused"] == found["tried"]
    status = json.loads(ground.ssh(ground.device, "shoal-agent status --json").stdout)
    assert status["engine"]["network_isolated"] is True
    assert ground.device.owner(ground.device.pids("-m agent.engine ")[0]) != ground.device.owner(agent_pid(ground))


def test_the_agent_writes_nowhere_else(ground: Ground) -> None:
    """In its own view of the system all but its state directory is read-only, and no core file would be written."""
    pid = agent_pid(ground)
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    root = next(fields for fields in mounts if fields[4] == "/")
    assert "ro" in root[5].split(",")
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits)


def test_a_hung_engine_is_replaced(ground: Ground, asking: list[str]) -> None:
    """The agent misses its answers, has the unit end it, and asks for another."""
    (pid,) = ground.device.pids("-m agent.engine ")
    os.kill(pid, signal.SIGSTOP)
    until(lambda: [other for other in ground.device.pids("-m agent.engine ") if other != pid], "other engine", 90)
    assert json.loads(run(*asking, "Name a colour.", "--max-tokens", "8", "--json"))["status"] == 200


def test_a_hung_agent_is_restarted(ground: Ground, asking: list[str]) -> None:
    """Its beats are missed."""
    pid = agent_pid(ground)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: ground.device.pids("-m agent ") not in ([], [pid]), "other agent", 120)
    assert json.loads(run(*asking, "Name a colour.", "--max-tokens", "8", "--json"))["status"] == 200


def test_a_power_cut_in_the_middle_of_a_prompt_loses_nothing(ground: Ground, asking: list[str]) -> None:
    """Who asked gets the answer once the device is back."""
    long = [*asking, "Tell a story.", "--max-tokens", "400", "--ttl", "600", "--json", "--stream"]
    with subprocess.Popen(long, stdout=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        first = [json.loads(asked.stdout.readline()) for _ in range(3)]
        assert first
        ground.device.cut_power()
        ground.device.boot()
        rest = asked.stdout.read().splitlines()
    assert asked.returncode == 0
    assert json.loads(rest[-1])["status"] == 200


def agent_pid(ground: Ground) -> int:
    """The agent's process, as this machine numbers it."""
    (pid,) = ground.device.pids("-m agent ")
    return pid


def program(name: str) -> str:
    """A command of this working copy."""
    return str(Path(sys.executable).with_name(name))
