"""The lock on a state directory."""

import fcntl
from pathlib import Path
from typing import IO

from agent.errors import StoreError


def lock(state_dir: Path) -> IO[str]:
    """Makes sure that one agent alone uses a state directory; the lock ends with the process.

    Raises:
        StoreError: another agent uses it, or nobody can.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state_dir / "agent.lock").open("a+", encoding="utf-8")  # held open for life
    except OSError as error:
        raise StoreError(f"cannot use the state directory {state_dir}: {error}; set [node] state_dir") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreError(
            f"cannot start: another agent uses {state_dir}; stop it, or set another [node] state_dir"
        ) from error
    return file
