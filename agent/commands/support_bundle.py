"""`shoal-agent support-bundle`: what somebody needs who helps from afar, made of what is known to hold no texts.

Nothing is copied and then cleaned: each part is chosen. There are no prompts and answers (the journal is listed without
them), no keys and passwords (files are named and not read), and no names of clients (a digest says which are the same).
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from agent.card import versions
from agent.checkup import Patient, examine
from agent.config import Config, load_config
from agent.errors import AgentError
from agent.store.database import FILE, Database

UNITS = ("shoal-agent.service", "shoal-engine@*.service", "shoal-engine.socket")
LOG_LINES = 2000
NUM_REQUESTS = 1000
REDACTED = "(redacted)"
COMMAND_TIMEOUT_S = 20


def support_bundle(
    into: Annotated[Path, typer.Argument(help="The archive to write.")] = Path("shoal-support.tar.gz"),
) -> None:
    """Write an archive for whoever helps: checks, settings, status, log. No texts, no keys, no names of clients."""
    patient = Patient(load_config())
    parts: dict[str, Callable[[], str]] = {
        "checks.json": lambda: _json(examine(patient)),
        "settings.json": lambda: _json(_settings(patient.config)),
        "status.json": lambda: _json(patient.status),
        "versions.json": lambda: _json({**versions(), "system": platform.platform()}),
        "requests.json": lambda: _json(_requests(patient.state_dir)),
        "files.txt": lambda: _files(patient.state_dir),
        "log.txt": _log,
    }
    try:
        descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise AgentError(f"cannot write {into}: {error.strerror}; name a file that is not there yet") from error
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, make in parts.items():
            try:
                text = make()
            except (AgentError, OSError, subprocess.SubprocessError) as error:
                text = f"not here: {type(error).__name__}\n"
            member = tarfile.TarInfo(f"shoal-support/{name}")
            member.size, member.mtime = len(text.encode()), int(time.time())
            archive.addfile(member, io.BytesIO(text.encode()))
    print(f"Wrote {into}: {', '.join(parts)}. Look into it before you pass it on.")


def _settings(config: Config) -> dict[str, Any]:
    """The settings in force, without the name at the broker; passwords and keys are files, which are only named."""
    settings: dict[str, Any] = msgspec.to_builtins(config)
    settings["broker"]["username"] = REDACTED if config.broker.username else ""
    return settings


def _requests(state_dir: Path) -> list[dict[str, Any]]:
    """How the last requests went: times and status codes."""
    if not (state_dir / FILE).exists():
        return []
    database = Database(state_dir, repair=False)
    try:
        rows = database.read(
            "SELECT client, status, arrived_ms, deadline_ms, ended_ms, starts FROM requests ORDER BY key DESC LIMIT ?",
            NUM_REQUESTS,
        )
        return [{**dict(row), "client": _digest(row["client"])} for row in rows]
    finally:
        database.close()


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _files(state_dir: Path) -> str:
    """What lies in the state directory, and whose it is."""
    lines = []
    for path in sorted(state_dir.rglob("*")):
        state = path.lstat()
        lines.append(
            f"{state.st_mode & 0o7777:04o} {state.st_uid:>6} {state.st_size:>12} {path.relative_to(state_dir)}"
        )
    return "\n".join(lines) + "\n"


def _log() -> str:
    """The last lines of the units; the agent writes no texts into its log."""
    if not shutil.which("journalctl"):
        return "not here: no journal\n"
    units = [word for unit in UNITS for word in ("--unit", unit)]
    done = subprocess.run(
        ["journalctl", "--no-pager", "--lines", str(LOG_LINES), "--output", "short-iso", *units],
        capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip
    return done.stdout


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
