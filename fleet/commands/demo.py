"""`fleet demo`: a small fleet and the whole way of a prompt on this machine, without root."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fleet.terminal import console, write

INTERRUPTED = 130

EPILOG = "Exit codes: 0 every prompt was answered · 1 something did not work · 2 wrong usage."


def demo(
    model_dir: Annotated[Path, typer.Option(help="The folder that holds the model, one GGUF file.")] = Path(
        ".shoal", "models"
    ),
    adapter_dir: Annotated[Path, typer.Option(help="The folder that holds the adapter home-actions.")] = Path(
        "training", "adapters"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave all of it running.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="One node without a fleet, behind a broker that asks nobody who they are.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port of a plain broker; else 1883, or a free one.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what --keep left running.")] = False,
) -> None:
    """Start a controller with its broker and two enrolled agents here, and ask a real model over MQTT."""
    from fleet.demo import scene
    from fleet.demo.trial import FOLDER

    folder = FOLDER.absolute()
    out = console(sys.stdout)
    if stop:
        if not scene.stop(folder, out):
            write(f"No demo is running in {folder}.")
        return
    try:
        scene.run(folder, model_dir, adapter_dir, plain=plain, port=port, keep=keep, console=out)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
