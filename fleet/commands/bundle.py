"""`fleet bundle export` and `import`: releases in one file, for where there is no network."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.publish import digest_of, send_file
from fleet.commands.where import Dir, Json, connect
from fleet.errors import UsageError
from fleet.tables import print_json
from fleet.terminal import write

bundle_app = typer.Typer(help="Releases in one file, for where there is no network.", no_args_is_help=True)


@bundle_app.command("export")
def export(
    releases: Annotated[list[str], typer.Argument(metavar="NAME@VERSION…", help="What goes into it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file, a tar.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="For how long its signatures shall hold.")] = 30,
    folder: Dir = None,
) -> None:
    """Write releases to one file, under the same signatures; nodes and other controllers can take it."""
    from fleet.api.releases import NewBundle

    part = output.with_name(f".{output.name}.part")
    try:
        with connect(folder) as controller, part.open("wb") as file:
            for piece in controller.download("/v1/bundles", NewBundle(releases=releases, days=days)):
                file.write(piece)
        part.replace(output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another place with --output") from error
    finally:
        part.unlink(missing_ok=True)
    write(f"Wrote {output}, {output.stat().st_size} bytes, good for {days} days.")


@bundle_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `fleet bundle export` wrote.", exists=True, dir_okay=False)],
    root: Annotated[
        Path | None,
        typer.Option(help="The root.json of the fleet that exported it.  [default: this fleet's own]", exists=True),
    ] = None,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Approve the releases of a bundle here too, when those that this root names have signed them."""
    from fleet.api.releases import Adopted, BroughtBundle

    with connect(folder) as controller:
        digest = digest_of(file)
        send_file(controller, file, digest, file.name)
        brought = BroughtBundle(sha256=digest, root=root.read_text("utf-8") if root else None)
        done = controller.send("POST", "/v1/bundles/import", Adopted, brought, timeout=None)
    if json:
        print_json(done)
        return
    for words, names in (("New", done.new), ("There already", done.known)):
        if names:
            write(f"{words}: {', '.join(names)}.")
    if done.missing:
        write(f"Nodes do not see them yet: the targets need {done.missing} more signature(s).")
    if not done.new and not done.known:
        write("There is no approved release in it.")
