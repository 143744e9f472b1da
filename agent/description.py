"""What `shoal-agent status` and telemetry show of models and adapters."""

from typing import Any

from agent.catalog import Catalog
from agent.fitness import unfit_bases
from agent.quarantine import Quarantine


def describe_default(models: Catalog) -> dict[str, Any]:
    """The engine of the default model."""
    if models.default is not None:
        return models.default.describe()
    return {
        "state": "none" if models.is_up else "broken", "problem": models.problem, "pid": None, "restarts": 0,
        "flags": None, "model": None, "task": None, "parallel": 0, "slots": None, "speed": None,
    }  # fmt: skip


def describe_models(models: Catalog) -> list[dict[str, Any]]:
    """Every model, the default first, and the files that cannot be used."""
    found = [
        local.describe() | {"default": local is models.default, "needs_mib": round(local.need.total_bytes / 2**20)}
        for local in models.models
    ]
    return found + [
        {"model": path.name, "state": "unusable", "problem": problem, "default": False}
        for path, problem in models.problems.items()
    ]


def describe_adapters(models: Catalog) -> list[dict[str, Any]]:
    """The adapters, and the files that cannot be used."""
    found: list[dict[str, Any]] = [
        {"adapter": entry.label, "sha256": entry.sha256, "base_sha256": entry.base_sha256, "bytes": entry.bytes,
         "rank": entry.rank, "activation": entry.activation, "pinned": entry.pinned,
         "unfit_for": unfit_bases(entry.scores)}
        for entry in models.adapters.all()
    ]  # fmt: skip
    return found + [{"adapter": path.name, "problem": problem} for path, problem in models.adapters.problems.items()]


def telemetry_columns(models: Catalog, queue_limit: int, quarantine: Quarantine) -> dict[str, Any]:
    """What a row of telemetry about the machine says of the daemon on it."""
    return {
        "queue": models.num_waiting,
        "queue_limit": queue_limit,
        "engine": models.default.state if models.default else None,
        "models": len(models.files),
        "quarantined": len(quarantine.items),
    }
