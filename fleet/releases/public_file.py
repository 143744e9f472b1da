"""Files that anybody may read and nobody changes: there whole or not at all, whenever the power goes."""

import contextlib
import os
import tempfile
from pathlib import Path

from fleet.folder import sync_folder

_MODE = 0o444  # a web server that runs as somebody else may read it
_FOLDER_MODE = 0o755


def write_public(path: Path, data: bytes, root: Path) -> None:
    """Writes a file, in place of the one that is there, and has it on disk with the folders up to `root`.

    Raises:
        OSError: there is no space or no right; nothing has changed.
    """
    make_folders(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    folder = path.parent
    sync_folder(folder)
    while folder != root:
        folder = folder.parent
        sync_folder(folder)


def make_folders(path: Path) -> None:
    """Makes a folder and those above it, which others may look into whatever the umask is."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(_FOLDER_MODE)
