"""`fleet token create` and `ls`, `fleet client create`, `ls` and `key`, `fleet revoke`."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.api.identities import EnrolmentToken, NewClient, NewToken
from fleet.commands.where import Dir, Json, connect, path
from fleet.duration import parse_duration
from fleet.folder import Folder
from fleet.login import local_folder
from fleet.tables import date, print_json, print_table
from fleet.terminal import warn, write

if TYPE_CHECKING:
    from fleet.api.identities import Client
    from fleet.enrolment import Enrolment

Ttl = Annotated[str, typer.Option(help="How long the token can be used, as in 30m, 12h or 7d.")]

token_app = typer.Typer(help="Tokens with which devices enrol.", no_args_is_help=True)
client_app = typer.Typer(help="IoT devices and applications that ask.", no_args_is_help=True)


@token_app.command("create")
def create_token(
    node: Annotated[str, typer.Option(help="The node's id.")], ttl: Ttl = "30m", json: Json = False, folder: Dir = None
) -> None:
    """Print the line that enrols a device, once."""
    _create(NewToken(node=node, ttl_s=parse_duration(ttl) // 1000), folder, json)


@token_app.command("ls")
def list_tokens(json: Json = False, folder: Dir = None) -> None:
    """List tokens that can still be used; nobody can read them again."""
    from fleet.api.identities import OpenToken

    with connect(folder) as controller:
        found = controller.get(path("tokens"), list[OpenToken])
    if json:
        print_json(found)
        return
    rows = [(one.id, one.role, date(one.created_ms), date(one.expires_ms)) for one in found]
    print_table(("for", "a", "since", "until"), rows)


@client_app.command("create")
def create_client(
    client: Annotated[str, typer.Argument(help="The client's id.")],
    ttl: Ttl = "30m",
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Quota.  [default: none]")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Quota.  [default: none]")] = None,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Print the line that gives a client its identity, once."""
    quotas = {"requests_per_minute": requests_per_minute, "tokens_per_day": tokens_per_day}
    _create(NewClient(client=client, ttl_s=parse_duration(ttl) // 1000, **quotas), folder, json)


@client_app.command("ls")
def list_clients(json: Json = False, folder: Dir = None) -> None:
    """List clients, with their quotas and what they have: a certificate, a key for the HTTP API."""
    from fleet.api.identities import Client

    with connect(folder) as controller:
        found = controller.get(path("clients"), list[Client])
    if json:
        print_json(found)
        return
    rows = [
        (one.id, date(one.created_ms), _quota(one.requests_per_minute), _quota(one.tokens_per_day), _has(one))
        for one in found
    ]
    titles = ("client", "since", "requests/min", "tokens/day", "has")
    print_table(titles, rows, right=titles[2:4])


@client_app.command("key")
def create_key(
    client: Annotated[str, typer.Argument(help="The client's id, as `fleet client create` was told.")],
    folder: Dir = None,
) -> None:
    """Print a new key for the HTTP API, with which an application asks as this client, within its quotas."""
    from fleet.api.identities import ClientKey

    with connect(folder) as controller:
        write(controller.send("POST", path("clients", client, "key"), ClientKey).key)


def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="A node or client.")], folder: Dir = None
) -> None:
    """Take an identity away: its connection ends, and it is not renewed. A new token gives it back."""
    from fleet.api.identities import Revoked

    here = local_folder(folder)
    if here is None:
        with connect(folder) as controller:
            told = controller.send("DELETE", path("identities", identity), Revoked).told
    else:
        with _enrolment(here) as enrolment:
            told = enrolment.revoke(identity, actor=getpass.getuser())
    write(f"{identity} is revoked.")
    if not told:
        warn("no broker of this folder runs here, so nobody was cut off; one that starts refuses it")


def _quota(limit: int | None) -> str:
    return "-" if limit is None else str(limit)


def _has(client: "Client") -> str:
    if client.revoked_ms is not None:
        return f"nothing: revoked {date(client.revoked_ms)}"
    words = ["certificate"] * client.is_enrolled + ["key"] * client.has_key
    return ", ".join(words) or "nothing yet"


def _create(wanted: NewToken | NewClient, named: Path | None, json: bool) -> None:
    """Prints the line: from the folder where it is on this machine, also without `fleet serve`; else over HTTP."""
    here = local_folder(named)
    made = _create_remotely(wanted, named) if here is None else _create_here(wanted, here)
    if json:
        print_json(made)
        return
    into = "" if isinstance(wanted, NewToken) else f" --folder {wanted.client}"
    write(f"shoal-agent enroll {made.url} --token {made.token} --ca-sha256 {made.ca_sha256}{into}")


def _create_remotely(wanted: NewToken | NewClient, named: Path | None) -> EnrolmentToken:
    kind = "tokens" if isinstance(wanted, NewToken) else "clients"
    with connect(named) as controller:
        return controller.send("POST", path(kind), EnrolmentToken, wanted)


def _create_here(wanted: NewToken | NewClient, here: Folder) -> EnrolmentToken:
    from fleet.database.identities import Quotas

    ttl_ms, actor = wanted.ttl_s * 1000, getpass.getuser()
    with _enrolment(here) as enrolment:
        if isinstance(wanted, NewToken):
            token = enrolment.create_token("node", wanted.node, ttl_ms, actor=actor)
        else:
            quotas = Quotas(wanted.requests_per_minute, wanted.tokens_per_day)
            token = enrolment.create_token("client", wanted.client, ttl_ms, quotas=quotas, actor=actor)
    return EnrolmentToken(token, here.url, here.authority("root").digest)


@contextmanager
def _enrolment(folder: Folder) -> "Iterator[Enrolment]":
    from fleet.controller import now_ms
    from fleet.database.store import open_database
    from fleet.enrolment import Enrolment
    from fleet.logs import silence_logs

    silence_logs()
    database = open_database(folder.database_url)
    try:
        yield Enrolment(folder, database, now_ms)
    finally:
        database.close()
