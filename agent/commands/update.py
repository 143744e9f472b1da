"""`shoal-agent update` and `shoal-agent rollback`: releases on their way to this node."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.commands.output import Json, print_json
from agent.config import load_config
from agent.control import call
from agent.errors import AgentError
from agent.identity import RELEASES_ROOT_FILE, identity_folder

app = typer.Typer(help="Releases of models and adapters on their way to this node.", no_args_is_help=True)

TIMEOUT_S = 5.0


@app.command("status")
def status(as_json: Json = False) -> None:
    """Show what is on its way, what serves, what would be gone back to, and what the gate measured."""
    updates: dict[str, Any] = _ask("updates")["updates"]
    if as_json:
        print_json(updates)
        return
    for slot, update in updates.items():
        print(f"{slot:<24} {update['state']}, {update['progress']:.0%}: {update['release'] or 'the configured one'}")
        print(f"{'':<24} serves {update['active'] or 'none'}, last good {update['last_good'] or 'none'}")
        if update["probation_ms"] is not None:
            print(f"{'':<24} on probation for {round(update['probation_ms'] / 60_000)} minutes")
        if update["error"]:
            print(f"{'':<24} {update['error']}")
    if not updates:
        print("no release has come to this node")


@app.command("import")
def import_(bundle: Annotated[Path, typer.Argument(help="What `fleet bundle export` wrote.")]) -> None:
    """Take releases from a file, for a node without network. They count when the fleet's keys have signed them."""
    from agent.update.bundle import take_bundle
    from agent.update.delivery import FOLDER

    state_dir = load_config().state_dir
    root_file = identity_folder(state_dir) / RELEASES_ROOT_FILE
    if not root_file.exists():
        raise AgentError(f"cannot trust {bundle}: there is no {root_file}; enrol this node first")
    for reference in take_bundle(bundle, state_dir / FOLDER, root_file, time.time_ns() // 1_000_000):
        print(f"{reference} can be fetched without network now")


@app.command("cancel")
def cancel(as_json: Json = False) -> None:
    """Stop what is on its way, until the controller wishes for something else; what is being exchanged is exchanged."""
    _show(_ask("cancel_updates")["changed"], as_json, "cancelled", "nothing is on its way")


def rollback(as_json: Json = False) -> None:
    """Go back to the last good releases, as after crashes. What has served for an hour is the last good one itself."""
    changed: list[str] = _ask("roll_back")["changed"]
    if not changed:
        raise AgentError(
            "cannot roll back: what serves is the last good release, or is just being exchanged; wish for another"
            " release at the controller"
        )
    _show(changed, as_json, "going back", "")


def _ask(op: str) -> dict[str, Any]:
    answer = next(call(load_config().state_dir, {"op": op}, TIMEOUT_S))
    if "error" in answer:
        raise AgentError(answer["error"])
    return answer


def _show(changed: list[str], as_json: bool, what: str, nothing: str) -> None:
    if as_json:
        print_json({"changed": changed})
    else:
        print(f"{what}: {', '.join(changed)}" if changed else nothing)
