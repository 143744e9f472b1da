"""`shoal-agent requests`: what the journal holds. Prompts and answers are shown only on demand."""

import asyncio
import json
import time
from typing import Annotated, Any

import typer

from agent.commands.output import Json, finite, print_json
from agent.config import load_config
from agent.errors import AgentError
from agent.store.database import FILE, Database

app = typer.Typer(help="Requests in the journal of this device.", no_args_is_help=True)

COLUMNS = "key, client, id, status, arrived_ms, deadline_ms, ended_ms, starts"


def _open() -> Database:
    state_dir = load_config().state_dir
    if not (state_dir / FILE).exists():
        raise AgentError(f"cannot find a journal in {state_dir}: no agent has run there; set [node] state_dir")
    return Database(state_dir, repair=False)


@app.command("ls")
def ls(
    client: Annotated[str | None, typer.Option(help="Only this client's.")] = None,
    still_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most this many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List requests, newest first, without their texts."""
    database = _open()
    rows = database.read(
        f"SELECT {COLUMNS} FROM requests WHERE (? IS NULL OR client = ?) AND (NOT ? OR status IS NULL)"  # noqa: S608
        " ORDER BY key DESC LIMIT ?",
        client, client, still_open, limit,
    )  # fmt: skip
    found = [dict(row) for row in rows]
    database.close()
    if as_json:
        print_json(found)
        return
    for row in found:
        took = f"{row['ended_ms'] - row['arrived_ms']} ms" if row["ended_ms"] else "open"
        print(f"{_when(row['arrived_ms'])}  {row['client']:<20} {row['id']:<36} {row['status'] or '-':>4}  {took}")
    if not found:
        print("no requests")


@app.command("show")
def show(
    client: Annotated[str, typer.Argument(help="The client.")],
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The request's id.")],
    texts: Annotated[bool, typer.Option(help="Show prompt and answer too.")] = False,
    as_json: Json = False,
) -> None:
    """Show one request."""
    database = _open()
    rows = database.read("SELECT * FROM requests WHERE client = ? AND id = ?", client, request_id)
    database.close()
    if not rows:
        raise AgentError(f"cannot find request {request_id!r} of client {client!r}: see `shoal-agent requests ls`")
    found = {name: rows[0][name] for name in COLUMNS.split(", ")}
    if texts:
        found |= {name: _text(rows[0][name]) for name in ("body", "final")}
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            print(f"{name:<12} {value}")


@app.command("purge")
def purge(
    older_than: Annotated[
        float,
        typer.Option(min=0, max=1e9, callback=finite, help="Only those that ended at least this many seconds ago."),
    ] = 0.0,
) -> None:
    """Forget ended requests and their answers. A retry of one of them is then a new request."""
    database = _open()
    before_ms = time.time_ns() // 1_000_000 - round(older_than * 1000)
    count = asyncio.run(
        database.write(
            lambda db: (
                db.execute("DELETE FROM requests WHERE status IS NOT NULL AND ended_ms <= ?", (before_ms,)).rowcount
            )
        )
    )
    database.close()
    print(f"forgot {count} requests")


def _text(blob: Any) -> Any:
    if blob is None:
        return None
    text = bytes(blob).decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))
