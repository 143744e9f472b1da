"""An agent that has nothing but the line that the controller printed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.controller import ControllerProcess


class EnrolledAgent:
    """`shoal-agent enroll`, then `shoal-agent run`, in a folder of its own."""

    def __init__(self, place: Path, model: Path | None = None) -> None:
        place.mkdir()
        self.config = place / "agent.toml"
        self.identity = place / "state" / "identity"
        self.log = place / "agent.log"
        self.env = {
            **os.environ,
            "SHOAL_CONFIG": str(self.config),
            "SHOAL_NODE_STATE_DIR": str(place / "state"),
            "SHOAL_BROKER_KEEPALIVE_S": "5",
            **({"SHOAL_MODEL_FILE": str(model), "SHOAL_MODEL_CONTEXT_TOKENS": "512"} if model else {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs `shoal-agent`."""
        return subprocess.run(
            [sys.executable, "-c", "from agent.cli import main; main()", *words],
            capture_output=True, text=True, timeout=120, check=False, env=self.env,
        )  # fmt: skip

    def enroll(self, controller: ControllerProcess, token: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Enrols with a token."""
        digest = controller.folder.authority("root").digest
        return self.command("enroll", controller.folder.url, "--token", token, "--ca-sha256", digest, *words)

    def start(self, *before: str) -> "EnrolledAgent":
        """Starts the daemon as `shoal-agent run` does, with words `before` its command that end in running it."""
        with self.log.open("ab") as log:
            command = [*before, sys.executable, "-c", "from agent.cli import main; main()", "run"]
            self._process = subprocess.Popen(command, stderr=log, env=self.env)
        return self

    def records(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event."""
        lines = [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]
        return [record for record in lines if record["event"] == event]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None
