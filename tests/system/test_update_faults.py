"""An update that is killed at any system call: what serves is the old model or the new one, whole, and the next start
ends what was begun.

Each change is killed at a sample of its mutating system calls, always the same one; SHOAL_ALL_KILLS=1 takes all of
them, which is some minutes.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.models import digest_of
from agent.store.database import Database
from agent.store.facts import Facts
from agent.update.updater import read_slots
from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.folder_depot import publish
from tests.fakes.releases import make_release
from tests.fakes.tiny_model import tiny_model
from tests.system.test_adapter_faults import strace

SAMPLE = 5


class Trial:
    """A node that is the same before every kill; it serves m@0, and m@2 is published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.depot = folder / "depot"
        self.template = folder / "template"
        self.template.mkdir()
        (self.template / "base.gguf").write_bytes(tiny_model().build())
        new = folder / "new.gguf"
        new.write_bytes(tiny_model(seed=2).build())
        self.release: Release = make_release(new, Objects(folder / "objects"), name="m", version="2")
        publish(self.depot, self.release, new)
        self.base = f"base@{digest_of(self.template / 'base.gguf')[:12]}"

    def run(self, state_dir: Path, change: str, strace: tuple[str, ...] = ()) -> tuple[int, str]:
        """Makes a change, under strace; returns the exit code and what serves."""
        command = [sys.executable, "-m", "tests.fakes.update_change", str(state_dir), str(self.depot), change]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*strace, *command], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.strip()

    def fresh(self) -> Path:
        """A copy of the template."""
        state_dir = self.folder / "state"
        shutil.rmtree(state_dir, ignore_errors=True)
        shutil.copytree(self.template, state_dir)
        return state_dir

    def check(self, state_dir: Path) -> str | None:
        """What must hold whenever a change was killed; returns the release that serves."""
        database = Database(state_dir, repair=False)
        slots = read_slots(Facts(database)).slots
        database.close()
        for file in (state_dir / "models").glob("*.gguf"):
            assert digest_of(file) == file.stem.rpartition(".")[2]
        serves = slots["model"].serves if slots else self.base
        assert serves in (self.base, "m@2")
        if serves == "m@2":
            assert (state_dir / f"models/m@2.{self.release.file.sha256}.gguf").exists()
        return serves


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A node, and a release for it."""
    if not shutil.which("strace"):
        pytest.fail("cannot find strace: run `python3 bootstrap.py programs`")
    return Trial(tmp_path_factory.mktemp("trial"))


@pytest.mark.parametrize("change", ["install", "rollback"])
def test_a_kill_at_any_system_call_leaves_a_whole_model_that_serves(trial: Trial, change: str) -> None:
    """The old one or the new one; the next start comes to the same end as if nothing had happened."""
    if change == "rollback":
        assert trial.run(trial.template, "install") == (0, "m@2")
    log = trial.folder / "calls"
    state_dir = trial.fresh()
    end = "m@2" if change == "install" else trial.base
    assert trial.run(state_dir, change, strace("-o", str(log))) == (0, end)
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text("utf-8"), re.MULTILINE))
    points = [(call, number) for call, count in sorted(calls.items()) for number in range(1, count + 1)]
    if not os.environ.get("SHOAL_ALL_KILLS"):
        renames = [point for point in points if point[0].startswith("rename")]
        points = sorted({*renames, *random.Random(1).sample(points, min(SAMPLE, len(points)))})
    num_killed = 0
    for call, number in points:
        state_dir = trial.fresh()
        how = strace("-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")
        code, said = trial.run(state_dir, change, how)
        num_killed += code in (-9, 137)
        assert code in (-9, 137) or said == end, (call, number)  # how many calls there are differs by a few
        trial.check(state_dir)
        assert trial.run(state_dir, change) == (0, end), (call, number)
        assert trial.check(state_dir) == end
        assert not list((state_dir / "update").glob("*"))
    assert num_killed > len(points) / 2
