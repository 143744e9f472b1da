"""`fleet version`."""

import platform
from typing import Annotated

import msgspec
import typer

from fleet import __version__
from fleet.terminal import write


def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the versions of Shoal, the wire contract, Python and paho-mqtt."""
    from importlib.metadata import version as installed

    from contract.mqtt5 import VERSION

    versions = {
        "shoal": __version__,
        "contract": VERSION,
        "python": platform.python_version(),
        "paho-mqtt": installed("paho-mqtt"),
    }
    if json:
        write(msgspec.json.encode(versions).decode())
    else:
        write("\n".join(f"{name} {number}" for name, number in versions.items()))
