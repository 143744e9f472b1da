"""`fleet release`: what is published, taking it back, and the signatures on it."""

from typing import Annotated

import msgspec
import typer

from fleet.commands.where import Dir, Json, connect, path
from fleet.errors import UsageError
from fleet.tables import date, print_json, print_table
from fleet.terminal import write

release_app = typer.Typer(help="What is published, and whose signatures count.", no_args_is_help=True)

Release = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")]
NUM_SHOWN = 20


@release_app.command("ls")
def ls(json: Json = False, folder: Dir = None) -> None:
    """List releases, also those that wait for signatures or were yanked."""
    from fleet.api.releases import Listed

    with connect(folder) as controller:
        found = controller.get("/v1/releases", list[Listed])
    if json:
        print_json(found)
        return
    rows = [
        (one.release, one.kind, f"{one.bytes / 1e6:.1f}", one.state, date(one.published_ms), one.reason or "")
        for one in found
    ]
    print_table(("release", "a", "MB", "state", "since", ""), rows, right=("MB",))


@release_app.command("show")
def show(release: Release, json: Json = False, folder: Dir = None) -> None:
    """Show all that a release says of itself."""
    from fleet.api.releases import Shown

    name, version = split(release)
    with connect(folder) as controller:
        found = controller.get(path("releases", name), Shown, version=version)
    if json:
        print_json(found)
        return
    write(f"{release}, {found.listed.state} since {date(found.listed.published_ms)}, {found.num_segments} segments")
    for key, value in found.manifest.items():
        if value not in (None, [], {}) and key not in ("name", "version"):
            write(f"  {key:15} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}")


@release_app.command("yank")
def yank(
    release: Release,
    reason: Annotated[str, typer.Option(help="Why; everybody who lists releases reads it.")],
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Take a release back: it cannot be wished any more. Nodes keep it until they are told otherwise."""
    from fleet.api.releases import Yank, Yanked

    name, version = split(release)
    with connect(folder) as controller:
        done = controller.send(
            "POST", path("releases", name, "yank"), Yanked, Yank(reason=reason), params={"version": version}
        )
    if json:
        print_json(done)
        return
    write(f"Yanked {release}." if not done.missing else f"{release} is yanked once {done.missing} more have signed.")
    if done.nodes:
        shown = ", ".join(done.nodes[:NUM_SHOWN])
        more = f" and {len(done.nodes) - NUM_SHOWN} more" if len(done.nodes) > NUM_SHOWN else ""
        write(f"Have it, or are wished to: {shown}{more}. `fleet set` gives them another.")


def split(release: str) -> tuple[str, str]:
    """Name and version.

    Raises:
        UsageError: one of them is missing.
    """
    name, _, version = release.partition("@")
    if not name or not version:
        raise UsageError(f"cannot tell which release {release!r} is: write NAME@VERSION")
    return name, version
