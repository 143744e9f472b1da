"""Rollouts from the command line, with a controller, its broker, and nodes that follow what is wished of them."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contract.presence import AdapterInfo
from contract.steering import Desired
from tests.fakes.controller import ControllerProcess
from tests.fakes.scripted_node import ScriptedNode, model
from tests.fakes.waiting import until

NODES = ("n1", "n2", "n3")
BAD = "m@bad"
MODELS = [model(version) for version in ("1", "2", "3", "4", "bad")]  # so that nothing has to be published
TONE = AdapterInfo("tone", "1", "0" * 64, "0" * 64)
QUICK = ("--soak", "0s", "--waves", "1,100%", "--max-unavailable", "2")


def follow(node: ScriptedNode, wish: Desired) -> None:
    """Has every release at once, but for the bad one, which its gate turns away."""
    if wish.model == BAD:
        gate = {"reasons": ["answer 1 is empty"]}
        node.report(wish.rev, "refused", active="m@2", gate=gate, error="its gate says no")
    else:
        node.report(wish.rev, active=wish.model or "m@1", adapters=wish.adapters)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker and three nodes."""
    running = ControllerProcess(tmp_path_factory.mktemp("rollouts")).ready()
    with ExitStack() as stack:
        for name in NODES:
            stack.enter_context(ScriptedNode(running, name, follow=follow, site="here", models=MODELS, adapters=[TONE]))
        yield running
    running.stop()


def said(controller: ControllerProcess, *words: str, code: int = 0) -> str:
    """What a command prints; it ends with this code."""
    done: subprocess.CompletedProcess[str] = controller.fleet(*words)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def told(controller: ControllerProcess, *words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(said(controller, *words, "--json"))


def active(controller: ControllerProcess) -> list[str]:
    """What serves on the nodes."""
    return [record["active"] for record in told(controller, "nodes")["nodes"]]


def test_a_release_is_planned_begun_held_back_and_completed(controller: ControllerProcess) -> None:
    """What each command says, and what a person is to do next."""
    planned = told(controller, "rollout", "plan", "m@2", *QUICK)
    assert list(map(len, planned["waves"])) == [1, 2]
    assert f"wave 1: {planned['waves'][0][0]}" in said(controller, "rollout", "plan", "m@2", "site=here", *QUICK)
    assert told(controller, "rollout", "ls") == []
    said(controller, "rollout", "start", "m@2", "site=here", *QUICK, "--approve", "2")
    waits = "waits for approval: wave 2\n  go on: fleet rollout approve r1 2"
    until(lambda: waits in said(controller, "rollout", "status", "r1"), "wait for approval")
    assert f"r1 running: m@2 to site=here, wave 2 of 2; 2 waiting, 1 confirmed\n{waits}" in said(
        controller, "rollout", "status", "r1"
    )
    assert "rollout r1 running: m@2, wave 2" in said(controller, "status")
    [holder] = planned["waves"][0]
    assert "r1" in said(controller, "show", holder)
    refused = said(controller, "set", holder, "--model", "m@9", code=1)
    assert "rollout r1 holds it until it is over; `fleet rollout abort r1` ends it" in refused
    said(controller, "rollout", "pause", "r1", "--reason", "lunch")
    assert "go on: fleet rollout resume r1 1" in said(controller, "rollout", "status", "r1", code=3)
    assert "there is pause 1: lunch" in said(controller, "rollout", "resume", "r1", "2", code=1)
    said(controller, "rollout", "resume", "r1", "1")
    said(controller, "rollout", "approve", "r1", "2")
    assert "r1 completed: m@2" in said(controller, "rollout", "watch", "r1")
    assert active(controller) == ["m@2"] * 3
    assert [one["phase"] for one in told(controller, "rollout", "ls")] == ["completed"]
    actions = [line["action"] for line in told(controller, "audit", "--subject", "r1")]
    assert actions[::-1] == [
        "rollout start", "rollout pause", "rollout resume", "rollout approve", "rollout completed",
    ]  # fmt: skip


def test_a_bad_release_stops_by_itself(controller: ControllerProcess) -> None:
    """One node tried it; it says why, and the good one serves everywhere."""
    begun = told(controller, "rollout", "start", BAD, "site=here", *QUICK)["id"]
    ended = said(controller, "rollout", "watch", begun, code=3)
    assert "1 of 1 nodes were rejected by their gate; 0 may" in ended
    assert f"{begun} aborted" in ended
    assert re.search(r"n\d +1 +back +online +confirmed +its gate says no", ended)
    assert set(active(controller)) == {"m@2"}
    assert "its gate says no" not in said(controller, "status")  # it went back, and is well


def test_a_controller_that_is_killed_goes_on(controller: ControllerProcess) -> None:
    """The rollout is where it was; an abort takes it back from who has it."""
    begun = told(controller, "rollout", "start", "m@3", "site=here", *QUICK, "--approve", "2")["id"]
    until(lambda: "approval" in said(controller, "rollout", "status", begun), "wait for approval")
    assert active(controller).count("m@3") == 1
    controller.stop(signal.SIGKILL)
    controller.ready()
    said(controller, "rollout", "abort", begun, "--reason", "a test")
    assert "because a test" in said(controller, "rollout", "watch", begun, code=3)
    until(lambda: active(controller) == ["m@2"] * 3, "way back")


def test_a_fleet_becomes_what_its_file_says(controller: ControllerProcess, tmp_path: Path) -> None:
    """Shown first, then done; then there is nothing more to do."""
    file = tmp_path / "fleet.toml"
    file.write_text(
        """
[groups.here]
query = "site=here"
model = "m@4"
adapters = ["tone@1"]
settings = { "limits.queue" = 64 }

[groups.here.rollout]
waves = ["100%"]
soak_s = 0
max_unavailable = "100%"
"""
    )
    planned = said(controller, "plan", str(file), code=3)
    assert "here: rollout model m@4 in waves (n1, n2, n3)" in planned
    assert told(controller, "group", "ls") == []
    assert said(controller, "apply", str(file)) == planned
    until(lambda: controller.fleet("plan", str(file)).returncode == 0, "fleet as its file says")
    assert active(controller) == ["m@4"] * 3
    assert said(controller, "apply", str(file)).startswith("Nothing was to do")
    file.write_text("[groups.here]\nqueri = 1\n")
    assert "cannot use" in said(controller, "plan", str(file), code=2)
