"""The record of a running demo, in `.shoal/demo/demo.json`: what was started, and how to reach and end it."""

from pathlib import Path

import msgspec

from fleet.demo.process import Process
from fleet.errors import DemoError

FOLDER = Path(".shoal", "demo")

# Twice the agent's own patience with running requests, plus the time to write down the rest.
AGENT_ENDS_WITHIN_S = 30.0
BROKER_ENDS_WITHIN_S = 10.0


class Address(msgspec.Struct, frozen=True):
    """Where the broker listens."""

    host: str
    port: int


class Trial(msgspec.Struct, frozen=True):
    """A demo that was started. `started` has the start of each process in `pids`, under the same name."""

    broker: Address
    fleet: str
    node: str
    pids: dict[str, int] = {}
    started: dict[str, str] = {}

    def with_process(self, name: str, process: Process) -> "Trial":
        """The same with one more process."""
        return msgspec.structs.replace(
            self, pids=self.pids | {name: process.pid}, started=self.started | {name: process.started}
        )

    def process(self, name: str) -> Process | None:
        """One of the processes, "agent" or "broker"."""
        return Process(self.pids[name], self.started.get(name, "")) if name in self.pids else None

    def end(self) -> list[str]:
        """Ends what is still running: the agent first, so that it can say goodbye.

        Returns:
            The names of the processes that were running.
        """
        ended = []
        for name, patience_s in (("agent", AGENT_ENDS_WITHIN_S), ("broker", BROKER_ENDS_WITHIN_S)):
            process = self.process(name)
            if process is not None and process.end(patience_s):
                ended.append(name)
        return ended


def load_trial(folder: Path) -> Trial | None:
    """The demo that was started in `folder`, or None.

    Raises:
        DemoError: there is a record and it cannot be read.
    """
    path = folder / "demo.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trial)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DemoError(
            f"cannot read {path}: {error}; end what it started by hand (ps ax | grep shoal) and delete it"
        ) from error


def save_trial(folder: Path, trial: Trial) -> None:
    """Records a demo. Done before its processes are used, so that one that was killed can be ended later."""
    draft = folder / "demo.json.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(trial)) + b"\n")
    draft.replace(folder / "demo.json")


def forget_trial(folder: Path) -> None:
    """Removes the record."""
    (folder / "demo.json").unlink(missing_ok=True)
