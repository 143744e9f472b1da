"""The record of a running demo, in `.shoal/demo/demo.json`: what was started, so that it can be ended."""

from pathlib import Path

import msgspec

from fleet.demo.process import Process
from fleet.errors import DemoError

FOLDER = Path(".shoal", "demo")

# In seconds: twice an agent's own patience with running requests, plus the time to write down the rest; the controller
# ends its broker.
AGENT_ENDS_WITHIN_S = 30.0
LAST_TO_END = {"controller": 30.0, "broker": 10.0}


class Trial(msgspec.Struct, frozen=True):
    """A demo that was started. `started` has the start of each process in `pids`, under the same name."""

    pids: dict[str, int] = {}
    started: dict[str, str] = {}

    def with_process(self, name: str, process: Process) -> "Trial":
        """The same with one more process."""
        return msgspec.structs.replace(
            self, pids=self.pids | {name: process.pid}, started=self.started | {name: process.started}
        )

    def process(self, name: str) -> Process | None:
        """One of the processes: "controller", "broker", or an agent by its node."""
        return Process(self.pids[name], self.started.get(name, "")) if name in self.pids else None

    def end(self) -> list[str]:
        """Ends what is still running: the agents first, so that they can say goodbye.

        Returns:
            The names of the processes that were running.
        """
        ended = []
        for name in sorted(self.pids, key=lambda name: name in LAST_TO_END):
            process = self.process(name)
            if process is not None and process.end(LAST_TO_END.get(name, AGENT_ENDS_WITHIN_S)):
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
