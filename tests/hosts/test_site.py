"""From empty hosts to an agent that answers, and what happens to it then. Each test goes on from the last."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.fakes.waiting import until
from tests.hosts.conftest import FOLDER, Ground
from tests.hosts.host import run

PROBE = Path("tests/hosts/engine_probe.py")


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


def test_it_answers_over_tls(asking: list[str]) -> None:
    """A prompt goes to the broker over TLS, and its answer comes back."""
    final = json.loads(run(*asking, "Name a colour.", "--max-tokens", "8", "--json"))
    assert final["status"] == 200
    assert final["node"] == "kitchen-1"


def test_texts_stay_where_they_belong(ground: Ground, asking: list[str]) -> None:
    """A word of a prompt is in no log of either host, not in a support bundle and not in the fleet's database."""
    word = "zanzibar7391"
    assert json.loads(run(*asking, f"Repeat: {word}", "--max-tokens", "16", "--json"))["status"] == 200
    bundle = "shoal-agent support-bundle /run/b.tar.gz > /dev/null && tar --extract --to-stdout --file /run/b.tar.gz"
    for host, command in (
        (ground.device, f"({bundle}; journalctl --no-pager)"),
        (ground.controller, f"(cat {FOLDER}/fleet.db*; journalctl --no-pager)"),
    ):
        assert ground.ssh(host, f"{command} | grep --text --count {word}", check=False).stdout == "0\n"


def test_the_backup_works_in_its_unit(ground: Ground) -> None:
    """What the timer starts every night can read the folder and write where it shall, and nobody else reads it."""
    ground.ssh(ground.controller, "systemctl start shoal-backup.service")
    listed = ground.ssh(ground.controller, "stat --format '%A %U' /var/backups/shoal/*.tar.gz").stdout
    assert listed.split() == ["-rw-------", "shoal-fleet"]


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
