"""What is to be started for the demo, and what its questions then need of it, however it was started."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fleet.demo.adapter import Adapter
from fleet.demo.process import Process, start
from fleet.demo.trial import Trial
from fleet.errors import DemoError
from fleet.link import Link

FLEET = "home"
NODES = ("demo-1", "demo-2")
COMMAND_S = 60.0
UNWELL = 3  # `fleet status` and `fleet why`: a node is not well, which is an answer too


@dataclass(frozen=True)
class Plan:
    """What is to be started, in `folder`. `env` is the environment of all that is."""

    folder: Path
    model: Path
    adapter: Adapter
    env: Mapping[str, str]
    console: Console

    def start(self, program: str, *words: str, log: Path) -> Process:
        """Starts `fleet` or `shoal-agent`.

        Raises:
            DemoError: it is not installed.
        """
        return start([str(_installed(program)), *words], log, self.env)

    def run(self, program: str, *words: str, **more_env: str) -> str:
        """Runs `fleet` or `shoal-agent` to its end; returns what it printed.

        Raises:
            DemoError: it is not installed, or fails.
        """
        done = subprocess.run(
            [str(_installed(program)), *words], env={**self.env, **more_env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        if done.returncode not in (0, UNWELL):
            raise DemoError(f"cannot run `{program} {words[0]}`: it says: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def follow(self, program: str, *words: str, **more_env: str) -> Iterator[str]:
        """The same, line by line while it runs, however long that takes."""
        command = [str(_installed(program)), *words]
        env = {**self.env, **more_env}
        with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
            for line in running.stdout or ():
                yield line.rstrip()
        if running.returncode not in (0, UNWELL):
            raise DemoError(f"cannot run `{program} {words[0]}`: it says why above")


@dataclass(frozen=True)
class Stage:
    """What was started. `open_link` connects a client, `hints` say how to go on by hand.

    `is_fleet`: there is a controller, so agents can be given releases.
    """

    trial: Trial
    open_link: Callable[[], Link]
    hints: tuple[str, ...]
    is_fleet: bool = False


def _installed(program: str) -> Path:
    """The program that was installed together with this one."""
    path = Path(sys.executable).with_name(program)
    if not path.exists():
        raise DemoError(f"cannot find {path}: it is not installed here; pip install 'shoal[agent,fleet]'")
    return path
