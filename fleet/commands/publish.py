"""`fleet model publish` and `fleet adapter publish`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from fleet.commands import origin, variants
from fleet.commands.steering import read_settings
from fleet.commands.where import Dir, Json, connect
from fleet.errors import NotFoundError, UsageError
from fleet.tables import print_json
from fleet.terminal import console, write

if TYPE_CHECKING:
    from contract.release import Kind
    from fleet.api.releases import NewRelease, Published
    from fleet.remote import Controller

PIECE_BYTES = 1 << 20

model_app = typer.Typer(help="Models that nodes can be given.", no_args_is_help=True)
adapter_app = typer.Typer(help="Adapters that nodes can be given.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The release's name, an id.")]
Version = Annotated[str, typer.Argument(help="As in 1.2; a version is published once.")]
File = Annotated[Path | None, typer.Argument(help="A GGUF file; or --from.")]
Source = Annotated[str | None, typer.Option("--from", help=origin.HELP)]
License = Annotated[str | None, typer.Option("--license", help="An SPDX expression.  [default: as the file says]")]
Template = Annotated[Path | None, typer.Option(help="A chat template (Jinja), in place of the file's own.")]
Sampling = Annotated[
    list[str] | None, typer.Option(help="How it answers who does not say, as in temperature=0.2; may be repeated.")
]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens of context to be served.  [default: the node's]")]
Memory = Annotated[int | None, typer.Option(min=1, help="MiB of memory that it takes.  [default: computed]")]
Golden = Annotated[Path | None, typer.Option(help="A TOML file of golden prompts (docs/releases.md).")]
PerplexityText = Annotated[Path | None, typer.Option(help="A text; with --perplexity-ceiling.")]
Ceiling = Annotated[float | None, typer.Option(help="The perplexity of that text may not be above this.")]
MinSpeed = Annotated[
    float | None, typer.Option(min=0, max=1, help="Tokens a second, as a part of what the node did before.")
]

Quantize = Annotated[
    str | None, typer.Option(help="Formats, as in Q4_0,Q8_0: makes, measures and publishes these variants too.")
]


@model_app.command("publish")
def publish_model(
    name: Name, version: Version, file: File = None, source: Source = None, license_: License = None,
    chat_template: Template = None, sampling: Sampling = None, context: Context = None, memory: Memory = None,
    golden: Golden = None, perplexity_text: PerplexityText = None, perplexity_ceiling: Ceiling = None,
    min_speed: MinSpeed = None, quantize: Quantize = None, json: Json = False, folder: Dir = None,
) -> None:  # fmt: skip
    """Publish a model file: cut, signed, and there for all nodes. The same again changes nothing."""
    facts = _facts(chat_template, sampling, context, golden, perplexity_text, perplexity_ceiling, min_speed)
    with origin.fetched(file, source) as here:
        said = {"license": license_, "memory_bytes": _mib(memory)}
        if quantize is not None:
            _publish_variants(name, version, here, variants.check_kinds(quantize), folder, json, facts, said)
        else:
            _publish("model", name, version, here, folder, json, facts, **said)


@adapter_app.command("publish")
def publish_adapter(
    name: Name, version: Version, file: File = None, source: Source = None, license_: License = None,
    base: Annotated[
        str | None, typer.Option(help="NAME@VERSION, or the SHA-256, of its model.  [default: as the file says]")
    ] = None,
    sampling: Sampling = None, memory: Memory = None, golden: Golden = None, perplexity_text: PerplexityText = None,
    perplexity_ceiling: Ceiling = None, min_speed: MinSpeed = None, json: Json = False, folder: Dir = None,
) -> None:  # fmt: skip
    """Publish an adapter (a GGUF LoRA) for one model file. The same again changes nothing."""
    facts = _facts(None, sampling, None, golden, perplexity_text, perplexity_ceiling, min_speed)
    said = {"license": license_, "memory_bytes": _mib(memory), "base": base}
    with origin.fetched(file, source) as here:
        _publish("adapter", name, version, here, folder, json, facts, **said)


def _facts(
    chat_template: Path | None,
    sampling: list[str] | None,
    context: int | None,
    golden: Path | None,
    text: Path | None,
    ceiling: float | None,
    min_speed: float | None,
) -> dict[str, Any]:
    if (text is None) != (ceiling is None):
        raise UsageError("cannot judge perplexity by half: give both --perplexity-text and --perplexity-ceiling")
    facts = {
        "chat_template": chat_template and _read(chat_template),
        "sampling": read_settings(sampling),
        "context_tokens": context,
        "golden": read_golden(golden) if golden else [],
        "perplexity": text and {"text": _read(text), "ceiling": ceiling},
        "min_speed": min_speed,
    }
    return {name: value for name, value in facts.items() if value is not None}


def read_golden(file: Path) -> list[dict[str, Any]]:
    """Golden prompts of a TOML file, as a manifest has them.

    Raises:
        UsageError: it cannot be read, or has other words in it.
    """
    import tomllib

    try:
        content = tomllib.loads(_read(file))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"cannot read {file}: {error}; write it as docs/releases.md shows") from None
    prompts = content.pop("prompt", None)
    if not isinstance(prompts, list) or content:
        raise UsageError(f"cannot read {file}: it has to consist of [[prompt]] tables, as docs/releases.md shows")
    return [_golden(file, number, prompt) for number, prompt in enumerate(prompts, 1)]


def _golden(file: Path, number: int, prompt: dict[str, Any]) -> dict[str, Any]:
    contains = prompt.pop("contains", [])
    made: dict[str, Any] = {"max_tokens": prompt.pop("max_tokens", 64)}
    made["messages"] = prompt.pop("messages", None) or [
        {"role": role, "content": prompt.pop(role)} for role in ("system", "user") if role in prompt
    ]
    expect = [{"kind": "contains", "text": text} for text in ([contains] if isinstance(contains, str) else contains)]
    if "regex" in prompt:
        expect.append({"kind": "regex", "pattern": prompt.pop("regex")})
    if "json_schema" in prompt:
        schema = prompt.pop("json_schema")
        expect.append({"kind": "json_schema", "schema": schema})
        made["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    if "similar" in prompt:
        expect.append({"kind": "similar", "text": prompt.pop("similar"), "cosine": prompt.pop("cosine", 0.8)})
    if prompt:
        raise UsageError(f"cannot read {file}: prompt {number} has {', '.join(prompt)}, which means nothing here")
    return {**made, "expect": expect}


def _publish(
    kind: "Kind", name: str, version: str, file: Path, folder: Path | None, json: bool, facts: dict[str, Any],
    **more: Any,
) -> None:  # fmt: skip
    from fleet.api.releases import NewRelease

    raw = {"name": name, "version": version, "kind": kind, "sha256": digest_of(file), **facts, **more}
    try:
        wanted = msgspec.convert(raw, NewRelease)
    except msgspec.ValidationError as error:
        raise UsageError(f"cannot publish {name}@{version}: {error}") from None
    with connect(folder) as controller:
        published = _send(controller, wanted, file)
    if json:
        print_json(published)
        return
    _tell(published)


def _publish_variants(
    name: str, version: str, file: Path, kinds: list[str], folder: Path | None, json: bool,
    facts: dict[str, Any], said: dict[str, Any],
) -> None:  # fmt: skip
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        with connect(folder) as controller:
            adapters = variants.fetch_adapters(controller, digest_of(file), Path(place))
        made = variants.make_variants(file, kinds, Path(place), facts, adapters)
        for one in made:
            named = variants.version_of(version, one.kind)
            _publish("model", name, named, Path(one.file), folder, json, facts, **said)
    if not json:
        variants.show_variants(name, version, made)


def _send(controller: "Controller", wanted: "NewRelease", file: Path) -> "Published":
    """Publishes what is there already; sends the file when the controller has not got it."""
    from fleet.api.releases import Published

    try:
        return controller.send("POST", "/v1/releases", Published, wanted, timeout=None)
    except NotFoundError:  # the file, or its base: the second time says
        send_file(controller, file, wanted.sha256, f"{wanted.name}@{wanted.version}")
    return controller.send("POST", "/v1/releases", Published, wanted, timeout=None)


def send_file(controller: "Controller", file: Path, digest: str, title: str) -> None:
    """Has the controller hold a file of this digest."""
    from fleet.api.forms import Nothing
    from fleet.api.releases import NewUpload, Upload

    size = file.stat().st_size
    upload = controller.send("POST", "/v1/uploads", Upload, NewUpload(sha256=digest, bytes=size))
    if not upload.is_here:
        with _meter(title, size) as advance:
            controller.upload(f"/v1/uploads/{upload.id}", Nothing, _pieces(file, advance), size)


def digest_of(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _pieces(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece
            advance(len(piece))


@contextmanager
def _meter(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how far it is."""
    import sys

    if not sys.stderr.isatty():
        yield lambda _num_bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task(title, total=size)
        yield lambda num_bytes: progress.update(task, advance=num_bytes)


def _tell(published: "Published") -> None:
    size = published.bytes
    write(f"{'Published' if published.is_new else 'There already:'} {published.release}, {size} bytes.")
    write(f"  a node that holds nothing fetches {published.fetch_bytes} bytes ({published.fetch_bytes / size:.1%})")
    for earlier, num_bytes in published.update_bytes.items():
        write(f"  one that holds {earlier} fetches {num_bytes} bytes ({num_bytes / size:.1%})")
    if published.missing:
        write(
            f"Nodes do not see it yet: the targets need {published.missing} more signature(s). `fleet release pending`"
            " writes what is to be signed."
        )


def _mib(number: int | None) -> int | None:
    return None if number is None else number << 20


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}; name a text file in UTF-8") from None
