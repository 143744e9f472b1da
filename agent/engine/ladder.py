"""Load flags from fast to safe. The first engine of a model is a canary: when it dies, the next rung is tried.

llama.cpp picks machine code by processor features, and some of it crashes on some machines (AMX on virtual machines:
ggml-org/llama.cpp#20824). Nothing can tell before it has run, so what worked is remembered per host and build.
"""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple


class Rung(NamedTuple):
    """One set of load flags: `use_extra_bufts` repacks weights for the processor, `use_mmap` maps the file."""

    name: str
    flags: dict[str, bool]


RUNGS = (
    Rung("fast", {"use_extra_bufts": True, "use_mmap": True, "many_threads": True}),
    Rung("no-repack", {"use_extra_bufts": False, "use_mmap": True, "many_threads": True}),
    Rung("plain", {"use_extra_bufts": False, "use_mmap": False, "many_threads": False}),
)


def fact_name(model_sha256: str) -> str:
    """Under which name the store remembers the rung for this host, build and model."""
    build = f"{platform.node()} {platform.machine()} {_processor()} {version('llama-cpp-python')} {model_sha256}"
    return f"rung:{hashlib.sha256(build.encode()).hexdigest()[:16]}"


def start_of(remembered: str | None) -> int:
    """The rung to begin with: the remembered one, else the fastest."""
    return next((i for i, rung in enumerate(RUNGS) if rung.name == remembered), 0)


def _processor() -> str:
    """The processor's feature flags: a disk moved to another machine must not keep the other's rung."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as info:
            return next((line for line in info if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""
