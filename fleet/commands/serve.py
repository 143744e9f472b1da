"""`fleet serve`."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.folder import DEFAULT_PATH, ENV_PATH, open_folder


def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", envvar=ENV_PATH, help="The controller's folder.")
    ] = DEFAULT_PATH,
    embedded_broker: Annotated[
        bool, typer.Option(help="For a trial: run mosquitto as a child, with its configuration.")
    ] = False,
) -> None:
    """Run the controller in the foreground, until SIGTERM."""
    import asyncio

    from fleet import controller
    from fleet.logs import setup_logs

    made = open_folder(folder)
    setup_logs()
    asyncio.run(controller.serve(made, embedded_broker=embedded_broker))
