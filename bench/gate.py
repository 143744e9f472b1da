"""The gate on releases that are good and on releases that are not, made of the default model.

Rows: `bad_caught` and `good_refused`, in percent. What each of them showed is written to `bench/out/gate_trials.json`.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from agent.catalog import Catalog
from agent.config import parse_config
from agent.errors import AgentError
from agent.models import DEFAULT_FILE
from agent.store.database import Database
from agent.store.facts import Facts
from agent.update.admission import Room, obstacle
from agent.update.gating import Gating
from bench.candidates import Candidate, bad, good, release_for
from bench.report import OUT, Report

# What `--quick` takes.
QUICK = (
    "template of another model", "vocabulary permuted", "not a number", "Q8_0",
    "log-triage merged at 0.5 into layers 0 to 30",
)  # fmt: skip
CONFIG = """
[node]
state_dir = "{folder}/state"
[model]
file = "{model}"
context_tokens = 1024
[log]
level = "error"
"""


class Node:
    """A node that serves the default model; no engine runs but those of trials."""

    def __init__(self, model: Path, folder: Path) -> None:
        config = parse_config(CONFIG.format(folder=folder, model=model), "the bench", {})
        self._models = Catalog(config, Facts(Database(config.state_dir)))
        self._gating = Gating(config, self._models)
        self._folder = folder

    async def judge(self, candidate: Candidate) -> dict[str, Any]:
        """What it says of a release: whether it passed, and why not."""
        await self._models.look()
        assert self._models.default is not None  # noqa: S101  # it is configured
        base_sha256 = self._models.default.model.sha256
        content = candidate.make()
        release = release_for(candidate, content, base_sha256)
        room = Room(disk_bytes=1 << 50, memory_bytes=self._models.budget_bytes, base_sha256=base_sha256)
        if why := obstacle(release, release.kind, room):
            return {"passed": False, "reasons": [why]}
        file = self._folder / "candidate"
        file.write_bytes(content)
        try:
            _, told = await self._gating.judge(release, file)
        except AgentError as error:
            return {"passed": False, "reasons": [str(error)]}
        return told


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    model = Path(f".shoal/models/{DEFAULT_FILE}").resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trials = asyncio.run(_trials(model, folder, QUICK if quick else ()))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "gate_trials.json").write_text(json.dumps(trials, indent=1) + "\n", "utf-8")
    caught = [not trial["passed"] for trial in trials if not trial["is_good"]]
    refused = [not trial["passed"] for trial in trials if trial["is_good"]]
    report.add("bad_caught", f"bad releases turned away, of {len(caught)}", "%", [100 * _share(caught)], at_least=100)
    report.add("good_refused", f"good releases turned away, of {len(refused)}", "%", [100 * _share(refused)], 0)


async def _trials(model: Path, folder: Path, only: tuple[str, ...]) -> list[dict[str, Any]]:
    node = Node(model, folder)
    trials = []
    for candidate in [*bad(model, folder), *good(model, folder)]:
        if only and candidate.name not in only:
            continue
        started = time.monotonic()
        told = await node.judge(candidate)
        trials.append({"name": candidate.name, "is_good": candidate.is_good, **told})
        is_right = told["passed"] == candidate.is_good
        print(
            f"{'' if is_right else 'WRONG '}{candidate.name}: {'passed' if told['passed'] else told['reasons']}"
            f" ({time.monotonic() - started:.0f} s)",
            flush=True,
        )
    return trials


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)
