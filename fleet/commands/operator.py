"""`fleet operator create`, `ls` and `revoke`."""

import getpass
from typing import Annotated

import typer

from fleet.commands.where import Dir, Json, connect, path
from fleet.duration import parse_duration
from fleet.errors import UsageError
from fleet.folder import Folder, replace_private
from fleet.login import local_folder
from fleet.roles import Operator, Role
from fleet.tables import date, print_json, print_table
from fleet.terminal import write

operator_app = typer.Typer(help="Who may use the controller, and with which role.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The operator's name, an id.")]


@operator_app.command("create")
def create(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="A viewer looks, an operator also changes, an admin also decides who may.")
    ],
    ttl: Annotated[str | None, typer.Option(help="How long it is good, as in 12h or 90d.  [default: for ever]")] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep it in the folder, for commands on this machine.")] = False,
    folder: Dir = None,
) -> None:
    """Print a new token, once. In the controller's folder this works without `fleet serve`."""
    from fleet.api.operators import NewOperator, OperatorToken

    ttl_ms = None if ttl is None else parse_duration(ttl)
    here = local_folder(folder)
    if here is not None:
        token = _create_here(here, name, role, ttl_ms, save=save)
    elif save:
        raise UsageError("cannot use --save: the controller's folder is not here; name it with --dir")
    else:
        wanted = NewOperator(name=name, role=role, ttl_s=None if ttl_ms is None else ttl_ms // 1000)
        with connect(folder) as controller:
            token = controller.send("POST", "/v1/operators", OperatorToken, wanted).token
    if save and here is not None:
        replace_private(here.operator_token, token.encode())
        write(f"Stored the token of {name} in {here.operator_token}")
    else:
        write(token)


@operator_app.command("ls")
def ls(json: Json = False, folder: Dir = None) -> None:
    """List operators, also those whose token is void."""
    with connect(folder) as controller:
        found = controller.get("/v1/operators", list[Operator])
    if json:
        print_json(found)
        return
    rows = [
        (one.name, one.role, date(one.created_ms), date(one.expires_ms), "revoked" if one.revoked_ms else "")
        for one in found
    ]
    print_table(("name", "role", "since", "until", ""), rows)


@operator_app.command("revoke")
def revoke(name: Name, folder: Dir = None) -> None:
    """Make an operator's token void, at once."""
    from fleet.api.forms import Nothing

    with connect(folder) as controller:
        controller.send("DELETE", path("operators", name), Nothing)
    write(f"The token of {name} is void.")


def _create_here(folder: Folder, name: str, role: Role, ttl_ms: int | None, *, save: bool) -> str:
    from fleet.controller import now_ms
    from fleet.database.store import open_database
    from fleet.logs import silence_logs
    from fleet.operators import Operators

    silence_logs()
    database = open_database(folder.database_url)
    try:
        return Operators(database, now_ms).create(name, role, ttl_ms, actor=getpass.getuser(), replace=save)
    finally:
        database.close()
