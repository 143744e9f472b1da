"""`fleet token create`, `fleet client create`, `fleet revoke`."""

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.enrolment import Role
from fleet.errors import UsageError
from fleet.folder import DEFAULT_PATH, ENV_PATH, Folder, open_folder
from fleet.logs import silence_logs
from fleet.terminal import warn, write

if TYPE_CHECKING:
    from fleet.database.identities import Quotas
    from fleet.enrolment import Enrolment

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

Dir = Annotated[Path, typer.Option("--dir", envvar=ENV_PATH, help="The controller's folder.")]
Ttl = Annotated[str, typer.Option(help="How long the token can be used, as in 30m, 12h or 7d.")]

token_app = typer.Typer(help="Tokens with which devices enrol.", no_args_is_help=True)
client_app = typer.Typer(help="IoT devices and applications that ask.", no_args_is_help=True)


@token_app.command("create")
def create_token(
    node: Annotated[str, typer.Option(help="The node's id.")], ttl: Ttl = "30m", folder: Dir = DEFAULT_PATH
) -> None:
    """Print the line that enrols a device, once."""
    _create("node", node, ttl, folder, None)


@client_app.command("create")
def create_client(
    client: Annotated[str, typer.Argument(help="The client's id.")],
    ttl: Ttl = "30m",
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Quota.  [default: none]")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Quota.  [default: none]")] = None,
    folder: Dir = DEFAULT_PATH,
) -> None:
    """Print the line that gives a client its identity, once."""
    from fleet.database.identities import Quotas

    _create("client", client, ttl, folder, Quotas(requests_per_minute, tokens_per_day))


def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="A node or client.")], folder: Dir = DEFAULT_PATH
) -> None:
    """Take an identity away: its connection ends, and it is not renewed. A new token gives it back."""
    with _enrolment(folder) as (_, enrolment):
        told = enrolment.revoke(identity, actor=getpass.getuser())
    write(f"{identity} is revoked.")
    if not told:
        warn("no broker of this folder runs here, so nobody was cut off; one that starts refuses it")


def _create(role: Role, name: str, ttl: str, path: Path, quotas: "Quotas | None") -> None:
    with _enrolment(path) as (folder, enrolment):
        token = enrolment.create_token(role, name, parse_ttl(ttl), quotas=quotas, actor=getpass.getuser())
        into = "" if role == "node" else f" --folder {name}"
        write(f"shoal-agent enroll {folder.url} --token {token} --ca-sha256 {folder.authority('root').digest}{into}")


def parse_ttl(text: str) -> int:
    """A duration in ms from text as in "30m".

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise UsageError(f"cannot use --ttl {text!r}: write a number and a unit, as in 90s, 30m, 12h or 7d")
    return int(found[1]) * UNITS_MS[found[2]]


@contextmanager
def _enrolment(path: Path) -> "Iterator[tuple[Folder, Enrolment]]":
    from fleet.controller import now_ms
    from fleet.database.store import open_database
    from fleet.enrolment import Enrolment

    silence_logs()
    folder = open_folder(path)
    database = open_database(folder.database_url)
    try:
        yield folder, Enrolment(folder, database, now_ms)
    finally:
        database.close()
