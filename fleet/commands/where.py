"""Where the controller is, as options say it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.ids import ID_RULE, is_id
from fleet.errors import UsageError
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


def path(*parts: str) -> str:
    """The path of something at the controller. What is no id would lead elsewhere: `../operators` to another route.

    Raises:
        UsageError: a part is no id.
    """
    for part in parts:
        if not is_id(part):
            raise UsageError(f"cannot find {part!r}: an id is {ID_RULE}")
    return "/".join(("/v1", *parts))


def connect(folder: Path | None) -> "Controller":
    """The controller over HTTP.

    Raises:
        UsageError: nothing says which.
        FolderError, AccessError: what says it cannot be used.
    """
    from fleet.remote import Controller

    return Controller(need_login(folder))
