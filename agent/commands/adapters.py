"""`shoal-agent adapters`: what the store of this device holds. All of it works with the agent running or stopped."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from agent.adapter_import import Terms, import_adapter
from agent.commands.models import look_for_models
from agent.commands.output import Json, print_json, progress
from agent.config import Config, load_config
from agent.control import call
from agent.errors import AgentError, ControlError, NoSpaceError
from agent.fitness import unfit_bases
from agent.memory import MIB
from agent.packages import put_in_place
from agent.store.adapter_entries import Entry, Sizes, Use
from agent.store.adapters import FILE, AdapterStore
from contract.status import Status

app = typer.Typer(help="Adapters (LoRA) of this device.", no_args_is_help=True)

TIMEOUT_S = 5.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="The adapter's name, or name@version.")]


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List adapters: bytes of their own, bytes that they share, bytes in memory, uses."""
    config = load_config()
    found: list[dict[str, Any]] = []
    if (config.state_dir / FILE).exists():
        with _store(config) as store:
            found = _describe(config, store, store.entries())
    if as_json:
        print_json(found)
        return
    for one in found:
        used = f"{one['hits']} uses" + (f", last {_when(one['last_use_ms'])}" if one["hits"] else "")
        print(
            f"{one['adapter']:<34} own {_kb(one['own_bytes'])}  shared {_kb(one['shared_bytes'])}  in memory"
            f" {_kb(one['resident_bytes'])}  {used}{', pinned' if one['pinned'] else ''}"
        )
    if not found:
        print("no adapters")


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one adapter."""
    config = load_config()
    with _store(config) as store:
        (found,) = _describe(config, store, [_find(store, name)])
    if as_json:
        print_json(found)
    else:
        for field, value in found.items():
            print(f"{field:<16} {_when(value) if field.endswith('_ms') and value else value}")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A GGUF file, or a folder that PEFT saved.")],
    name: Annotated[str | None, typer.Option(help="What requests call it.  [default: from the file's name]")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The model it is for: name or SHA-256.  [default: what the file says, or the default model]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import an adapter. A name that exists moves to the new one."""
    config = load_config()
    progress(f"importing {source}")
    try:
        terms = Terms(
            bases=look_for_models(config).bases(),
            budget_bytes=config.store.adapters_mib * MIB,
            in_use=_daemon(config)["in_use"],
        )
        store = AdapterStore(config.state_dir, repair=False)
        try:
            done = import_adapter(store, source, terms, name=name, base=base)
        finally:
            store.close()
    except NoSpaceError as error:
        if as_json:
            print_json({"error": {"status": int(Status.NO_SPACE), "code": "no_space", "message": str(error)}})
        raise
    finally:
        progress("")
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    print(f"{done.name}@{done.sha256[:12]}: {done.bytes} bytes, rank {done.rank}, for the base {done.base_sha256}")
    for sha256 in done.evicted:
        print(f"evicted {sha256[:12]} to make room")


@app.command("export")
def export(
    name: Name,
    target: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to.  [default: NAME.gguf]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write an adapter's file, byte for byte as it was imported."""
    with _store(load_config()) as store:
        entry = _find(store, name)
        path = target or Path(f"{entry.name}.gguf")
        if path.exists() and not force:
            raise AgentError(f"cannot write {path}: it is there already; --force replaces it")
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("xb") as out:
                store.read(entry.sha256, out.write)
            put_in_place(temporary, path)
        except OSError as error:
            raise AgentError(f"cannot write {path}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    if as_json:
        print_json({"file": str(path), "sha256": entry.sha256, "bytes": entry.bytes})
    else:
        print(path)


@app.command("pin")
def pin(name: Name, as_json: Json = False) -> None:
    """Keep an adapter, whatever room others need."""
    _pin(name, True, as_json)


@app.command("unpin")
def unpin(name: Name, as_json: Json = False) -> None:
    """Let an adapter be evicted when others need its room."""
    _pin(name, False, as_json)


@app.command("rm")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names, or name@version.")], as_json: Json = False
) -> None:
    """Remove names. Adapters that have none left go too, once no request uses them."""
    config = load_config()
    with _store(config) as store:
        for name in names:
            entry = _find(store, name)
            store.remove(entry.name, in_use=_daemon(config)["in_use"])
            if not as_json:
                print(f"removed {entry.label}")
    if as_json:
        print_json({"removed": names})


@app.command("verify")
def verify(as_json: Json = False) -> None:
    """Read everything and compare digests. Exit code 1 when something has changed."""
    with _store(load_config()) as store:
        problems = store.problems(lambda label: progress(f"reading {label}"))
        num_adapters = len(store.entries())
    progress("")
    if as_json:
        print_json({"adapters": num_adapters, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        print(f"{num_adapters} adapters, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@app.command("gc")
def gc(as_json: Json = False) -> None:
    """Remove what nothing names or needs, and give free pages back to the file system."""
    config = load_config()
    with _store(config) as store:
        collected = store.collect(_daemon(config)["in_use"])
        freed = store.shrink()
    if as_json:
        print_json({"removed": collected, "freed_bytes": freed})
    else:
        print(f"removed {collected} adapters, freed {freed} bytes")


@contextlib.contextmanager
def _store(config: Config) -> Iterator[AdapterStore]:
    """The store. Who does not import makes no file, which would belong to the wrong user."""
    if not (config.state_dir / FILE).exists():
        raise AgentError(f"cannot find an adapter in {config.state_dir}: import one first, or set [node] state_dir")
    store = AdapterStore(config.state_dir, repair=False)
    try:
        yield store
    finally:
        store.close()


def _find(store: AdapterStore, reference: str) -> Entry:
    entries = store.entries()
    for entry in entries:
        if reference in (entry.name, entry.label):
            return entry
    here = ", ".join(entry.label for entry in entries) or "none"
    raise AgentError(f"cannot find the adapter {reference!r}: this device has {here}")


def _pin(name: str, pinned: bool, as_json: bool) -> None:
    with _store(load_config()) as store:
        entry = _find(store, name)
        store.pin(entry.name, pinned)
    if as_json:
        print_json({"adapter": entry.label, "pinned": pinned})
    else:
        print(f"{'pinned' if pinned else 'unpinned'} {entry.label}")


def _describe(config: Config, store: AdapterStore, entries: list[Entry]) -> list[dict[str, Any]]:
    sizes, uses, resident = store.sizes(), store.uses(), _daemon(config)["resident"]
    found = []
    for entry in entries:
        size = sizes.get(entry.sha256, Sizes(0, 0))
        use = uses.get(entry.sha256, Use(0, 0.0, 0))
        found.append(
            {
                "adapter": entry.label,
                **msgspec.to_builtins(entry),
                "unfit_for": unfit_bases(entry.scores),
                "own_bytes": size.own,
                "shared_bytes": size.shared,
                "resident_bytes": resident.get(entry.sha256, 0),
                "hits": use.hits,
                "last_use_ms": use.last_use_ms,
            }
        )
    return found


def _daemon(config: Config) -> dict[str, Any]:
    """What a running agent uses and holds; nothing when none runs."""
    try:
        return dict(next(call(config.state_dir, {"op": "adapters"}, TIMEOUT_S))["adapters"])
    except (ControlError, StopIteration, KeyError, OSError):
        return {"in_use": [], "resident": {}}


def _kb(num_bytes: int) -> str:
    return f"{num_bytes / 1000:>8.1f} kB"


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))
