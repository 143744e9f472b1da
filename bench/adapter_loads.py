"""How long an adapter takes from the database until it can decode, beside llama.cpp loading its file by itself.

Ours: read, joined and hashed, sealed in memory, opened, parsed and checked by the engine, and written into a slot. All
in one process and one thread, without other work: `python -m bench engine` measures it beside running streams.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from llama_cpp import llama_cpp as lib

from agent.adapter_import import Terms, import_adapter
from agent.adapters import open_sealed
from agent.engine.adapters import Adapter
from agent.engine.llama import Model
from agent.engine.stack import Stack
from agent.memory import MIB
from agent.models import DEFAULT_FILE, BaseFile, digest_of
from agent.store.adapters import AdapterStore
from agent.weights.adapter import SLOT_RANK
from agent.weights.base_model import read_base_file
from agent.weights.gguf import parse
from bench.report import RUNS, Report, percentile
from tests.fakes.adapters import LINEAR, adapter_builder, make_adapter

MODEL = Path(".shoal/models") / DEFAULT_FILE
SLOTS = 8
FAMILY = 50
SIZES = {"1mb": ("attn_q", "attn_v"), "5mb": LINEAR}


def measure(report: Report, *, quick: bool) -> None:
    """Load times, and what a family with a shared A takes in the store."""
    runs, num_loads = (2, 8) if quick else (RUNS, 24)
    model = MODEL.resolve()
    with tempfile.TemporaryDirectory() as name:
        scene = _Scene(Path(name), model)
        over_direct: list[list[float]] = []
        over_file: list[list[float]] = []
        for size, tensors in SIZES.items():
            scene.add(make_adapter(Path(name) / f"{size}.gguf", model, tensors=tensors), size)
            pairs = [scene.run(size, num_loads) for _ in range(runs)]
            limit_ms = 5.0 if size == "1mb" else 20.0
            title = f"an adapter of {size[0]} MB, from SQLite until it can decode"
            slowest = [percentile(times.ours, 0.95) for times in pairs]
            report.add(f"load_ms_p95_{size}", f"{title}, p95", "ms", slowest, limit_ms)
            over_direct.append([median(times.ours) / median(times.direct) for times in pairs])
            over_file.append([median(times.ours) / median(times.from_file) for times in pairs])
        title = "the worse size, the same /"
        report.add(
            "load_over_direct", f"{title} llama.cpp loads the file, unchecked", "", max(over_direct, key=median), 1.3
        )
        report.add("load_over_file", f"{title} from a file, with the same checks", "", max(over_file, key=median))
        scene.close()
        share = _family_share(Path(name), model)
        report.add(
            "shared_a_bytes_ratio", f"{FAMILY} adapters with a shared A / {FAMILY} independent ones: bytes on disk", "",
            [share], 0.6,
        )  # fmt: skip


class _Times(NamedTuple):
    """Of loads, in ms: from SQLite, from a file that is copied and checked in the same way, by llama.cpp alone."""

    ours: list[float]
    from_file: list[float]
    direct: list[float]


class _Scene:
    """A store, and the engine's parts that take adapters from it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._base = read_base_file(model)
        self._store = AdapterStore(folder)
        self._terms = _terms(model)
        self._model = Model(str(model), use_extra_bufts=False, use_mmap=True)
        data = model.read_bytes()
        tokens = list(range(SLOTS))
        self._stack = Stack(parse(data), memoryview(data), rank=SLOT_RANK, activation_tokens=tokens, substitute=0)
        self._files: dict[str, tuple[Path, str]] = {}

    def add(self, path: Path, name: str) -> None:
        """Imports a file."""
        self._files[name] = (path, import_adapter(self._store, path, self._terms, name=name).sha256)

    def run(self, name: str, num_loads: int) -> "_Times":
        """So many loads in each of the ways, in turn."""
        path, sha256 = self._files[name]
        times = _Times([], [], [])
        for number in range(num_loads):
            started = time.perf_counter()
            self._take(open_sealed(self._store, sha256), number)
            times.ours.append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            self._take(_sealed_copy(path, sha256), number)
            times.from_file.append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            pointer = lib.llama_adapter_lora_init(self._model.pointer, str(path).encode())
            times.direct.append((time.perf_counter() - started) * 1000)
            if not pointer:
                raise RuntimeError("llama.cpp refuses the adapter")
            lib.llama_adapter_lora_free(pointer)
        return times

    def _take(self, fd: int, number: int) -> None:
        self._stack.write(Adapter(fd, self._base, number), 1 + number % SLOTS)

    def close(self) -> None:
        """Frees the model."""
        self._store.close()
        self._model.close()


def _sealed_copy(path: Path, sha256: str) -> int:
    """A file that nobody can change any more and that has the right digest, as the store gives it."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RuntimeError(f"{path} has changed")
    fd = os.memfd_create("adapter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def _terms(model: Path) -> Terms:
    return Terms(
        bases=[BaseFile(label="base", sha256=digest_of(model), path=str(model), is_default=True)],
        budget_bytes=4096 * MIB,
    )


def _family_share(folder: Path, model: Path) -> float:
    """Bytes of both files; adapters of the family have the A of the first one and a B of their own."""
    sizes = []
    for kind in ("family", "strangers"):
        state = folder / kind
        store = AdapterStore(state)
        first = adapter_builder(model, seed=0)
        for seed in range(FAMILY):
            builder = adapter_builder(model, seed=seed)
            if kind == "family":
                builder.tensors.update({name: a for name, a in first.tensors.items() if str(name).endswith("lora_a")})
            path = folder / "one.gguf"
            path.write_bytes(builder.build())
            import_adapter(store, path, _terms(model), name=f"a{seed}")
        store.close()
        sizes.append(sum(file.stat().st_size for file in state.glob("adapters.db*")))
    return sizes[0] / sizes[1]
