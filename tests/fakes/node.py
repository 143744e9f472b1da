"""A real agent in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.client import IotClient

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

    def start(self, **environment: str) -> "AgentProcess":
        """Starts it; does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", str(self.config)], stderr=log, env={**os.environ, **environment}
            )
        return self

    def wait_online(self, client: IotClient) -> None:
        """Waits for the retained status `online` of a session after the last one seen."""
        sessions = [m.json["sess"] for m in client.seen if m.topic.endswith("/status")]
        newest = max(sessions, default=0)
        client.wait(
            lambda m: m.topic.endswith(f"/node/{self.node}/status")
            and m.json["s"] == "online"
            and (m.json["sess"] > newest or newest == 0)
        )

    def status(self) -> dict[str, Any]:
        """What `shoal-agent status --json` says."""
        return dict(json.loads(self.command("status", "--json").stdout))

    def command(self, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs `shoal-agent` with this agent's configuration."""
        return subprocess.run(
            [sys.executable, "-c", "from agent.cli import main; main()", "--config", str(self.config), *words],
            capture_output=True, text=True, input=stdin, timeout=120, check=False,
        )  # fmt: skip

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
        return self.log.read_text("utf-8")
