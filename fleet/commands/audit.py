"""`fleet audit`."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.api.audit import Entry
from fleet.api.cloud import Left
from fleet.cloud.settings import NANO
from fleet.commands.where import Dir, Json, connect
from fleet.tables import date, print_json, print_table


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, as in token.create.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only entries before this number.")] = None,
    cloud: Annotated[bool, typer.Option("--cloud", help="What left for clouds, in place of what was changed.")] = False,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Show what was changed, by whom, the newest first; with --cloud what left for clouds, and why."""
    if cloud:
        _show_left(limit, before, json=json, folder=folder)
        return
    with connect(folder) as controller:
        found = controller.get(
            "/v1/audit", list[Entry], limit=limit, actor=actor, action=action, subject=subject, before=before
        )
    if json:
        print_json(found)
        return
    rows = [(str(one.number), date(one.at_ms), one.actor, one.action, one.subject, one.detail) for one in found]
    print_table(("number", "when", "who", "what", "about", "detail"), rows, right=("number",))


def _show_left(limit: int, before: int | None, *, json: bool, folder: Path | None) -> None:
    with connect(folder) as controller:
        found = controller.get("/v1/cloud/audit", list[Left], limit=limit, before=before)
    if json:
        print_json(found)
        return
    names = ("number", "when", "node", "client", "why", "privacy", "to", "bytes", "tokens", "cost", "outcome", "sha256")
    rows = [
        (str(one.number), date(one.at_ms), one.node, one.client, one.why, one.privacy, f"{one.provider} {one.model}",
         str(one.bytes), _tokens(one), "" if one.nano is None else f"{one.nano / NANO:.6f}", one.outcome,
         one.sha256[:12])
        for one in found
    ]  # fmt: skip
    print_table(names, rows, right=("number", "bytes", "tokens", "cost"))


def _tokens(left: Left) -> str:
    return "" if left.prompt_tokens is None else f"{left.prompt_tokens}+{left.completion_tokens}"
