"""`shoal-agent update-conformance`: the node's own trust, as the public tuf-conformance suite asks for it.

https://github.com/theupdateframework/tuf-conformance/blob/main/CLIENT-CLI.md
"""

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from agent.errors import AgentError

FIRST_ROOT = "first_root"  # beside what the suite looks at

app = typer.Typer(help="Judge this agent's TUF client with the tuf-conformance suite.", no_args_is_help=True)


class ConformanceError(AgentError):
    """The repository is not to be trusted, or does not answer."""


@app.callback()
def _options(
    context: typer.Context,
    metadata_dir: Annotated[Path, typer.Option()],
    metadata_url: Annotated[str, typer.Option()] = "",
    target_dir: Annotated[Path | None, typer.Option()] = None,
    target_base_url: Annotated[str, typer.Option()] = "",
    target_name: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    context.obj = (metadata_dir, metadata_url, target_dir, target_base_url, target_name or [])


@app.command()
def init(context: typer.Context, trusted_root: Path) -> None:
    """Begin with a root."""
    metadata_dir = context.obj[0]
    for name in (FIRST_ROOT, "root.json"):
        (metadata_dir / name).write_bytes(trusted_root.read_bytes())


@app.command()
def refresh(context: typer.Context) -> None:
    """Get the newest metadata."""
    _work(context, [])


@app.command()
def download(context: typer.Context) -> None:
    """Get the newest metadata, then the targets."""
    _work(context, context.obj[4])


def _work(context: typer.Context, names: list[str]) -> None:
    from agent.update.checking import Server
    from agent.update.origin import Origin
    from agent.update.reader import SourceError
    from agent.update.record import Record
    from agent.update.trust import Trust

    folder, url, target_dir, target_url, _ = context.obj
    record = Record(folder)
    now_ms = time.time_ns() // 1_000_000
    try:
        with Server(Origin(url)) as server:
            root = (folder / FIRST_ROOT).read_bytes()
            trust = Trust(folder, root, server, record, now_ms, metadata=url, targets=target_url)
            trust.refresh()
            for name in names:
                target = trust.target(name)
                if target is None:
                    raise ConformanceError(f"cannot download {name!r}: it is not approved")
                trust.fetch(target, target_dir / quote(name, safe=""))
    except SourceError as error:
        raise ConformanceError(f"cannot use {url}: {error}") from error
    finally:
        record.close()
