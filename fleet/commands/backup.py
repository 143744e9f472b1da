"""`fleet backup` and `fleet restore`."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.folder import DEFAULT_PATH, ENV_PATH, open_folder
from fleet.terminal import write

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", envvar=ENV_PATH, help="The controller's folder.")]


def backup(
    folder: Folder = DEFAULT_PATH,
    into: Annotated[Path, typer.Option(help="Folder for the archive.")] = Path(),
    keep: Annotated[int, typer.Option(min=1, help="How many archives of this fleet stay there.")] = 14,
) -> None:
    """Write keys, settings and database into an archive, also while the controller serves. Who has it has the fleet."""
    from fleet.backup import back_up

    found = open_folder(folder)
    write(f"Wrote {back_up(found, into, keep)}")
    if found.settings.database.url:
        write("The database is on its own server and not in it: back it up with pg_dump, right after this.")


def restore(
    archive: Annotated[Path, typer.Argument(help="What `fleet backup` wrote.")],
    folder: Folder = DEFAULT_PATH,
) -> None:
    """Make a controller's folder from a backup. Revisions go on above all that were given out."""
    from fleet.backup import restore as restore_folder
    from fleet.logs import silence_logs

    silence_logs()
    made = restore_folder(archive, folder)
    write(f"Restored the controller of fleet {made.fleet!r} in {made.path}")
    write("What was revoked since the backup is not: look at `fleet audit` of then, and revoke it again.")
