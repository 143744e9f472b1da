"""Where the controller is, as options say it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.folder import ENV_PATH
from fleet.login import need_login

if TYPE_CHECKING:
    from fleet.remote import Controller

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar=ENV_PATH,
        help="The controller's folder.  [default: ./shoal-fleet if it is there, else what `fleet login` stored]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(folder: Path | None) -> "Controller":
    """The controller over HTTP.

    Raises:
        UsageError: nothing says which.
        FolderError, AccessError: what says it cannot be used.
    """
    from fleet.remote import Controller

    return Controller(need_login(folder))
