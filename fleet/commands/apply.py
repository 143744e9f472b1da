"""`fleet plan` and `fleet apply`: the fleet as a file under version control."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fleet.commands.where import Dir, Json, connect
from fleet.errors import UsageError
from fleet.tables import print_json
from fleet.terminal import one_line, write

if TYPE_CHECKING:
    from fleet.api.apply import Change, FleetFile

UNHEALTHY = 3
NUM_SHOWN = 10

PLAN_EPILOG = "Exit codes: 0 nothing is different · 3 something is."

File = Annotated[Path, typer.Argument(help="What the fleet shall be, as TOML.")]


def plan(file: File, json: Json = False, folder: Dir = None) -> None:
    """Show what of the fleet is not as a file says; nothing is done."""
    if _send("/v1/plan", file, folder, json=json, nothing="Nothing to do: the fleet is as the file says."):
        raise typer.Exit(UNHEALTHY)


def apply(file: File, json: Json = False, folder: Dir = None) -> None:
    """Make the fleet what a file says; a second time changes nothing."""
    _send("/v1/apply", file, folder, json=json, nothing="Nothing was to do: the fleet is as the file says.")


def _send(route: str, file: Path, folder: Path | None, *, json: bool, nothing: str) -> "list[Change]":
    from fleet.api.apply import Change

    wanted = _read(file)
    with connect(folder) as controller:
        changes = controller.send("POST", route, list[Change], wanted, timeout=120)
    if json:
        print_json(changes)
        return changes
    for change in changes:
        write(_line(change))
    if not changes:
        write(nothing)
    return changes


def _read(file: Path) -> "FleetFile":
    from fleet.api.apply import FleetFile

    try:
        return msgspec.toml.decode(file.read_bytes(), type=FleetFile)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {(error.strerror or 'it fails').lower()}; name a file") from None
    except (ValueError, msgspec.MsgspecError) as error:  # the former of tomllib
        said = str(error)
        raise UsageError(f"cannot use {file}: {said[:1].lower()}{said[1:]}") from None


def _line(change: "Change") -> str:
    names = ", ".join(change.nodes[:NUM_SHOWN]) or "no node"
    more = f" and {len(change.nodes) - NUM_SHOWN} more" if len(change.nodes) > NUM_SHOWN else ""
    waits = f"; waits: {one_line(change.waits)}" if change.waits else ""
    return f"{change.group}: {change.what} {one_line(change.text)} ({names}{more}){waits}"
