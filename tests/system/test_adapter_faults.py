"""A store of adapters that is killed at any system call, or finds the disk full: it is whole, and holds what it lists.

Each kind of change is killed at a sample of its mutating system calls, always the same one; SHOAL_ALL_KILLS=1 takes all
of them, which is some minutes.
"""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.store.adapters import FILE, AdapterStore
from agent.store.database import RESERVE_BYTES
from tests.fakes.adapters import adapter_builder, make_adapter
from tests.fakes.store_change import BASE
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import Lab
from tests.unit.test_adapter_store import data_bytes, new, whole

MUTATING = (
    "write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,fsync,fdatasync,unlink,unlinkat,rename,renameat,"
    "renameat2,link,linkat,mkdir,mkdirat"
)
SAMPLE = 3


class Trial:
    """A state directory that is the same before every kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = folder / "template"
        self.template.mkdir()
        base = write_tiny_model(self.template / BASE)
        self.contents: dict[str, bytes] = {}  # every adapter that there can be, by digest
        for number, name in enumerate("abcde"):
            layers = [0, 1] if name in "ab" else [number % 2]
            path = make_adapter(folder / f"{name}.gguf", base, seed=number // 2, rank=4, layers=layers)
            self.contents[hashlib.sha256(path.read_bytes()).hexdigest()] = path.read_bytes()
            if name != "e":
                self.change(self.template, "import", path)
        store = AdapterStore(self.template)
        self.before = {entry.name for entry in store.entries()}
        store.close()

    def change(self, state_dir: Path, *words: str | Path, strace: tuple[str, ...] = ()) -> int:
        """Makes a change in a process of its own, under strace; returns its exit code."""
        command = [sys.executable, "-m", "tests.fakes.store_change", str(state_dir), *map(str, words)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.run([*strace, *command], env=environment, capture_output=True, check=False).returncode

    def fresh(self) -> Path:
        """A copy of the template."""
        state_dir = self.folder / "state"
        shutil.rmtree(state_dir, ignore_errors=True)
        shutil.copytree(self.template, state_dir)
        return state_dir

    def check(self, state_dir: Path, possible: tuple[set[str], ...]) -> set[str]:
        """What must hold whenever a change was killed; returns the names."""
        store = AdapterStore(state_dir, repair=False)
        names = {entry.name for entry in store.entries()}
        assert names in possible
        assert store.problems() == []
        digests = {entry.sha256 for entry in store.entries()}
        assert all(whole(store, sha256) == self.contents[sha256] for sha256 in digests)
        store.collect(())
        store.shrink()
        tensors = {bytes(data) for sha256 in digests for _, data in new(self.contents[sha256]).parts.tensors}
        assert data_bytes(store) == sum(map(len, tensors))
        assert store._db.execute("PRAGMA freelist_count").fetchone()[0] == 0
        store.close()
        assert {path.name for path in state_dir.iterdir()} <= {BASE, FILE, "drop.gguf"}
        return names


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A store of four adapters, and a fifth one to come."""
    if not shutil.which("strace"):
        pytest.fail("cannot find strace: run `python3 bootstrap.py programs`")
    return Trial(tmp_path_factory.mktemp("trial"))


@pytest.mark.parametrize("change", ["import", "remove", "evict", "collect"])
def test_a_kill_at_any_system_call_leaves_the_store_whole(trial: Trial, change: str) -> None:
    """The change is there or not; every adapter is what it was, byte for byte; nothing is left that nobody needs."""
    new_file = [trial.folder / "e.gguf"] if change in ("import", "evict") else []
    if change == "collect":  # something to collect: a name that moved while its adapter was in use
        store = AdapterStore(trial.template)
        store._db.execute("DELETE FROM names WHERE name = 'd'")
        store.close()
        trial.before = trial.before - {"d"}
    log = trial.folder / "calls"
    state_dir = trial.fresh()
    assert trial.change(state_dir, change, *new_file, strace=strace("-o", str(log))) == 0
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text("utf-8"), re.MULTILINE))
    after = trial.check(state_dir, ({*trial.before, "e"}, trial.before, trial.before - {"a"}, *evictions(trial)))
    assert (after != trial.before) is (change != "collect")
    points = [(call, number) for call, count in sorted(calls.items()) for number in range(1, count + 1)]
    if not os.environ.get("SHOAL_ALL_KILLS"):
        firsts_and_lasts = {point for call, count in calls.items() for point in ((call, 1), (call, count))}
        points = sorted({*firsts_and_lasts, *random.Random(1).sample(points, min(SAMPLE, len(points)))})
    seen = set()
    for call, number in points:
        state_dir = trial.fresh()
        how = strace("-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")
        assert trial.change(state_dir, change, *new_file, strace=how) in (-9, 137), (call, number)
        seen.add(frozenset(trial.check(state_dir, (trial.before, after))))
    assert frozenset(trial.before) in seen
    beyond = calls["pwrite64"] + 1  # that there are no more points
    how = strace("-o", "/dev/null", "-e", f"inject=pwrite64:signal=KILL:when={beyond}")
    assert trial.change(trial.fresh(), change, *new_file, strace=how) == 0


def strace(*words: str) -> tuple[str, ...]:
    """The beginning of a command whose mutating system calls are traced."""
    return ("strace", "-f", "-qq", "-e", f"trace={MUTATING}", "-e", "signal=none", *words)


def evictions(trial: Trial) -> Iterator[set[str]]:
    """What an import of `e` within the budget can leave."""
    names = sorted(trial.before)
    for mask in range(1 << len(names)):
        yield {"e", *(name for number, name in enumerate(names) if mask >> number & 1)}


# A full disk: a tmpfs that only one process and its children see, which takes no rights.

TMPFS = 'mount -t tmpfs -o size="$1" tmpfs "$2" && cp -r "$3"/. "$2" && shift 3 && exec "$@"'


def on_small_disk(size: str, at: Path, template: Path, *command: str) -> list[str]:
    """The command with a small disk at `at`, a copy of the template on it."""
    return ["unshare", "-Urm", "sh", "-c", TMPFS, "sh", size, str(at), str(template), *command]


def test_a_disk_that_fills_up_while_an_import_writes(trial: Trial) -> None:
    """The import fails with the free bytes; what was there is whole, and the log's bytes are free again."""
    big = make_adapter(trial.folder / "big.gguf", trial.template / BASE, rank=128, dtype="f32", seed=9)
    at = trial.folder / "disk"
    at.mkdir()
    script = (
        f"df --output=avail {at} | tail -1; {sys.executable} -m tests.fakes.store_change {at} import-without-reserve"
        f" {big}; echo $?; df --output=avail {at} | tail -1; {sys.executable} -m tests.fakes.store_verify {at}"
    )
    done = subprocess.run(
        on_small_disk("1m", at, trial.template, "sh", "-c", script), capture_output=True, text=True, check=True
    )
    before, code, after, *found = done.stdout.split()
    assert code == "1"
    assert "NoSpaceError: cannot write to " in done.stderr
    assert "bytes are free" in done.stderr
    assert int(after) > int(before) - 64  # KiB: the shared-memory file of the log is there for a moment
    assert found == ["0", "problems,", *sorted(trial.before)]


def test_an_agent_on_a_full_disk_serves_on(lab: Lab, tmp_path: Path) -> None:
    """An import that does not fit is refused with numbers, and requests are taken and answered as before."""
    base = write_tiny_model(tmp_path / "base.gguf", num_spare=4, context_tokens=512, endless=True)
    node = lab.agent(model=base)
    node.state_dir.mkdir()
    template = tmp_path / "template"
    (template / "adapters").mkdir(parents=True)
    make_adapter(template / "adapters/good.gguf", base)
    node.start(before=on_small_disk("20m", node.state_dir, template))
    assert node.process
    client = lab.client(node)
    node.wait_online(client)
    node.state_dir = Path(f"/proc/{node.process.pid}/root{node.state_dir}")

    def ask(name: str) -> int:
        client.ask({"id": name, "prompt": "Go on.", "max_tokens": 4, "adapter": "good"})
        return int(client.final(name)["status"])

    assert ask("before") == 200
    big = adapter_builder(base, rank=256, dtype="f32").build()
    (node.state_dir / "adapters/big.gguf").write_bytes(big)
    status = node.wait_status(lambda s: any("problem" in a for a in s["adapters"]), "refused import")
    (problem,) = [entry["problem"] for entry in status["adapters"] if "problem" in entry]
    assert problem.startswith("cannot store the adapter 'big': ")
    assert f"{RESERVE_BYTES} of them for other data" in problem
    assert int(problem.split(" bytes must be free")[0].split()[-1]) == 2 * len(big) + RESERVE_BYTES
    assert ask("after") == 200
    assert [entry["adapter"].partition("@")[0] for entry in status["adapters"]] == ["good", "big.gguf"]
