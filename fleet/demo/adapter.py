"""The demo's adapter: trained by this project for wishes, with a card that says how it is to be asked."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from fleet.errors import DemoError

NAME = "home-actions"


class Adapter(msgspec.Struct, frozen=True):
    """The adapter's file, the system turn that it was trained with, and the schema of its answers."""

    file: Path
    system: str
    schema: dict[str, Any]


class _Card(msgspec.Struct):
    system: str
    schema: str  # the file's name


def find_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`.

    Raises:
        DemoError: it is not there, or its card cannot be read.
    """
    try:
        card = msgspec.json.decode((folder / f"{NAME}.json").read_bytes(), type=_Card)
        schema = msgspec.json.decode((folder / card.schema).read_bytes(), type=dict[str, Any])
        file = folder / f"{NAME}.gguf"
        file.stat()
    except (OSError, msgspec.MsgspecError) as error:
        raise DemoError(
            f"cannot take the adapter {NAME} from {folder}: {error}; run `make demo` in the repository, or name the"
            " folder with --adapter-dir"
        ) from None
    return Adapter(file.absolute(), card.system, schema)


def drop(adapter: Adapter, state_dir: Path) -> None:
    """Puts it where the agent takes it in when it starts."""
    folder = state_dir / "adapters"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(adapter.file, folder / f"{NAME}.gguf")
