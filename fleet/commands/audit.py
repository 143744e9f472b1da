"""`fleet audit`."""

from typing import Annotated

import typer

from fleet.api.audit import Entry
from fleet.commands.where import Dir, Json, connect
from fleet.tables import date, print_json, print_table


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    actor: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, as in token.create.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only entries before this number.")] = None,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Show what was changed, by whom, the newest first."""
    with connect(folder) as controller:
        found = controller.get(
            "/v1/audit", list[Entry], limit=limit, actor=actor, action=action, subject=subject, before=before
        )
    if json:
        print_json(found)
        return
    rows = [(str(one.number), date(one.at_ms), one.actor, one.action, one.subject, one.detail) for one in found]
    print_table(("number", "when", "who", "what", "about", "detail"), rows, right=("number",))
