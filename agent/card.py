"""The node's card: what it is and can do, for the retained topic."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from agent import __version__
from agent.config import Config
from agent.engine.frames import Ready
from contract.presence import AdapterInfo, Card, Hardware, ModelInfo, Speed

FEATURES = ["generate", "stream", "json_schema", "cancel"]
EMBED = "embed"  # there is a model for it


def make_card(
    config: Config, models: list[ModelInfo], adapters: list[AdapterInfo], ready: Ready | None, now_ms: int
) -> Card:
    """The card as of now; the speed of the default model is there once its engine is ready."""
    return Card(
        node=config.node.id,
        site=config.node.site,
        labels=config.node.labels,
        pools=config.node.pools,
        versions=versions(),
        hardware=Hardware(
            machine=platform.machine(),
            processor=_processor(),
            cores=len(psutil.Process().cpu_affinity() or []) or 1,
            ram_mib=psutil.virtual_memory().total // 2**20,
            os=f"{platform.system()} {platform.release()}",
        ),
        models=models,
        adapters=adapters,
        speed=Speed(round(ready.prefill_tok_s, 1), round(ready.decode_tok_s, 1)) if ready else None,
        features=[*FEATURES, *([EMBED] if any(model.task == EMBED for model in models) else [])],
        ts=now_ms,
    )


def versions() -> dict[str, str]:
    """Versions of what matters when something goes wrong."""
    found = {"shoal": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("llama-cpp-python", "paho-mqtt"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as info:
            names = (line.partition(":")[2].strip() for line in info if line.startswith(("model name", "Model")))
            return next(names, platform.processor())
    except OSError:
        return platform.processor()
