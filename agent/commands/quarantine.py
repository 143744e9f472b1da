"""`shoal-agent quarantine`: what is not run any more because engines died of it."""

import asyncio
from typing import Annotated

import msgspec
import typer

from agent.commands.output import Json, print_json
from agent.config import load_config
from agent.control import call
from agent.errors import AgentError, ControlError
from agent.quarantine import Item, Quarantine
from agent.store.database import FILE, Database
from agent.store.quarantine import Quarantined

app = typer.Typer(
    help="Requests, grammars and adapters that engines died of, and that are not run any more.", no_args_is_help=True
)

TIMEOUT_S = 5.0


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List what is in quarantine, oldest first."""
    state_dir = load_config().state_dir
    try:
        answer = next(call(state_dir, {"op": "quarantine"}, TIMEOUT_S))
        items = msgspec.convert(answer["quarantine"], list[Item])
    except (ControlError, StopIteration):
        database = _open()
        items = Quarantined(database).items() if database else []
        if database:
            database.close()
    _show(items, as_json)
    if not items and not as_json:
        print("nothing is in quarantine")


@app.command("release")
def release(
    item_id: Annotated[str | None, typer.Argument(metavar="ID", help="What to release: its id, or 6 digits.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Release everything.")] = False,
    as_json: Json = False,
) -> None:
    """Let something run again. A grammar or adapter gets a new chance; its requests stay until they are released."""
    if (item_id is None) != everything:
        raise typer.BadParameter("give either an ID or --all")
    try:
        answer = next(call(load_config().state_dir, {"op": "release", "id": item_id}, TIMEOUT_S))
    except (ControlError, StopIteration):
        items = _release(item_id)
    else:
        if "error" in answer:
            raise AgentError(answer["error"])
        items = msgspec.convert(answer["released"], list[Item])
    _show(items, as_json)
    if not as_json:
        print(f"released {len(items)}")


def _open() -> Database | None:
    state_dir = load_config().state_dir
    return Database(state_dir, repair=False) if (state_dir / FILE).exists() else None


def _release(item_id: str | None) -> list[Item]:
    """Without a daemon: in its database."""
    database = _open()
    table = Quarantined(database) if database else None
    quarantine = Quarantine(table.items() if table else ())
    try:
        out = quarantine.release(item_id)
        if table:
            asyncio.run(table.keep(quarantine.items))
    finally:
        if database:
            database.close()
    return out


def _show(items: list[Item], as_json: bool) -> None:
    if as_json:
        print_json([msgspec.to_builtins(item) for item in items])
        return
    for item in items:
        print(f"{item.kind:<8} {item.short_id:<12} since {item.since}, the last engine's death was: {item.death}")
