"""`fleet demo`: the whole way of a prompt on this machine, without root and without a server."""

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
    keep: Annotated[bool, typer.Option("--keep", help="Leave broker and agent running.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The broker's port; else 1883, or a free one.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what --keep left running.")] = False,
) -> None:
    """Start a broker and an agent here, and ask a real model over MQTT, with and without an adapter."""
    from fleet.demo import scene
    from fleet.demo.trial import FOLDER

    folder = FOLDER.absolute()
    out = console(sys.stdout)
    if stop:
        if not scene.stop(folder, out):
            write(f"No demo is running in {folder}.")
        return
    try:
        scene.run(folder, model_dir, adapter_dir, port, keep=keep, console=out)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
