"""`shoal-agent check`."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from agent.commands.output import Json, print_json
from agent.config import Config, find_config, load_config
from agent.errors import AgentError
from agent.models import configured_file, digest_of, examine_model, find_files, model_folder
from agent.routing import Candidate, choose_default

CONNECT_TIMEOUT_S = 5.0


def check(as_json: Json = False) -> None:
    """Check configuration, model file, state directory and broker, without starting anything."""
    config = load_config()
    origin = find_config(None)
    results: list[dict[str, Any]] = [{"check": "configuration", "ok": True, "found": str(origin or "defaults")}]
    for name, test in CHECKS.items():
        try:
            results.append({"check": name, "ok": True, "found": test(config)})
        except (AgentError, OSError) as error:
            results.append({"check": name, "ok": False, "found": str(error)})
    if as_json:
        print_json(results)
    else:
        for result in results:
            print(f"{'ok  ' if result['ok'] else 'FAIL'} {result['check']}: {result['found']}")
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


def _model(config: Config) -> str:
    models = {path: examine_model(path) for path in find_files(config)}
    if not models:
        raise AgentError(f"cannot find a model in {model_folder(config)}; see `shoal-agent models fetch`")
    if config.model.file:
        default: Path | None = configured_file(config)
    else:
        candidates = [Candidate(path, model.name, model.task) for path, model in models.items()]
        chosen = choose_default(candidates, name=config.model.name)
        default = chosen.path if chosen else None
    if default and config.model.sha256 and digest_of(default) != config.model.sha256:
        raise AgentError(f"cannot use {default}: its SHA-256 is not [model] sha256")
    texts = [
        f"{path} ({model.bytes / 1e6:.0f} MB{', default' if path == default else ''})" for path, model in models.items()
    ]
    return ", ".join(texts)


def _state_dir(config: Config) -> str:
    folder = config.state_dir
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise AgentError(f"cannot use {folder}: {nearest} is not a directory; set [node] state_dir")
    if not os.access(nearest, os.W_OK):
        raise AgentError(f"cannot write to {nearest}: give this user the right to, or set [node] state_dir")
    space = os.statvfs(nearest)
    return f"{folder} ({space.f_bavail * space.f_frsize / 1e9:.1f} GB free)"


def _broker(config: Config) -> str:
    address = (config.broker.host, config.broker.port)
    try:
        socket.create_connection(address, CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the second: a name that cannot be one
        raise AgentError(f"cannot reach {address[0]}:{address[1]}: {error}; start it, or set [broker]") from error
    return f"{address[0]}:{address[1]} answers"


CHECKS: dict[str, Callable[[Config], str]] = {"model": _model, "state directory": _state_dir, "broker": _broker}
