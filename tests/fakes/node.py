"""A real agent in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.control import call
from agent.errors import ControlError
from tests.fakes.client import IotClient
from tests.fakes.waiting import until

CONFIG = """
[node]
id = "{node}"
state_dir = "{folder}/state"
[broker]
port = {port}
keepalive_s = 5
[model]
file = "{model}"
name = "smollm2"
version = "1"
context_tokens = 512
[log]
level = "debug"
"""


class AgentProcess:
    """An agent that can be killed and started again on the same state directory."""

    def __init__(self, folder: Path, port: int, model: Path, *, node: str = "n1", extra: str = "") -> None:
        self.folder, self.node, self.port = folder, node, port
        self.state_dir = folder / "state"
        self.log = folder / "agent.log"
        self.config = folder / "agent.toml"
        self.config.write_text(CONFIG.format(node=node, folder=folder, port=port, model=model) + extra)
        self.process: subprocess.Popen[bytes] | None = None
        self.depot: Path | None = None  # a folder of releases in place of the agent's own sources
        self.tolerated = "\n"  # a last word of the engine that a test provokes; this one is in no line

    def start(self, *, before: Sequence[str] = (), **environment: str) -> "AgentProcess":
        """Starts it, with words `before` its command that end in running it; does not wait."""
        program = ["agent", str(self.config)]
        if self.depot is not None:
            program = ["tests.fakes.agent_with_depot", str(self.config), str(self.depot)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", *program],
                stderr=log, env={**os.environ, **environment},
            )  # fmt: skip
        return self

    def wait_online(self, client: IotClient) -> None:
        """Waits for the retained status `online` of a session after the last one seen."""
        sessions = [m.json["sess"] for m in client.seen if m.topic.endswith("/status")]
        newest = max(sessions, default=0)
        client.wait(
            lambda m: (
                m.topic.endswith(f"/node/{self.node}/status")
                and m.json["s"] == "online"
                and (m.json["sess"] > newest or newest == 0)
            )
        )

    def status(self) -> dict[str, Any]:
        """What `shoal-agent status --json` says."""
        return dict(json.loads(self.command("status", "--json").stdout))

    def command(self, *words: str, stdin: str | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs `shoal-agent` with this agent's configuration."""
        return subprocess.run(
            [sys.executable, "-c", "from agent.cli import main; main()", "--config", str(self.config), *words],
            capture_output=True, text=True, input=stdin, timeout=120, check=False, env={**os.environ, **environment},
        )  # fmt: skip

    def peek(self) -> dict[str, Any] | None:
        """What `status` says, asked without the cost of a command; None while no daemon listens."""
        try:
            return dict(next(call(self.state_dir, {"op": "status"}, 10.0))["status"])
        except (ControlError, FileNotFoundError, StopIteration):
            return None

    def wait_status(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first status for which `wanted` is true."""

        def look() -> dict[str, Any] | None:
            status = self.peek()
            return status if status and wanted(status) else None

        return until(look, what)

    def wait_engine(self, *, other_than: int = 0) -> int:
        """The pid of an engine that is ready."""
        status = self.wait_status(
            lambda s: s["engine"]["state"] == "ready" and s["engine"]["pid"] not in (None, other_than), "ready engine"
        )
        return int(status["engine"]["pid"])

    def records(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of an event, with these fields."""
        lines = [json.loads(line) for line in self.logs().splitlines() if line.startswith("{") and line.endswith("}")]
        return [r for r in lines if r["event"] == event and all(r.get(k) == v for k, v in fields.items())]

    def wait_record(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The log line of an event, once it was logged `count` times."""
        found = until(lambda: self.records(event, **fields)[count - 1 :], f"log line {event!r} {fields}")
        return found[0]

    def faults(self) -> list[str]:
        """What must never be in a log: a traceback, or a line that is not the agent's own."""
        internal = ("library warning", "cannot handle a request", "cannot deliver an answer")
        return [
            line
            for line in self.logs().splitlines()
            if not line.startswith("{")
            or json.loads(line)["event"] in internal
            or ('"engine failed' in line and self.tolerated not in line)
        ]

    def kill_engine(self) -> int:
        """Kill -9 of the engine; returns its pid."""
        pid = int(self.status()["engine"]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; returns its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def logs(self) -> str:
        """Everything it logged."""
        return self.log.read_text("utf-8") if self.log.exists() else ""
