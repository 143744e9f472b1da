"""`shoal-agent enroll` and `shoal-agent renew`."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.clock import Clock
from agent.config import PATHS, Config, find_config, load_config, parse_config
from agent.errors import EnrolmentError
from agent.identity import CA_FILE, PEM_FILE, identity_folder, load_identity
from contract.enrolment import DAY_MS

if TYPE_CHECKING:
    from agent.identity import Identity

CONFIG = """\
# Written by `shoal-agent enroll`.
[node]
id = "{id}"
fleet = "{fleet}"

[broker]
host = "{host}"
port = {port}
ca_file = "{ca}"
cert_file = "{pem}"
"""

Folder = Annotated[
    Path | None, typer.Option(help="Where the identity is kept.  [default: {state_dir}/identity]", show_default=False)
]


def enroll(
    url: Annotated[str, typer.Argument(help="The controller.")],
    token: Annotated[str, typer.Option(help="From `fleet token create` or `fleet client create`; for one use.")],
    ca_sha256: Annotated[str, typer.Option(help="Digest of the controller's root certificate.")],
    folder: Folder = None,
) -> None:
    """Give this device its identity. Paste the line that the controller printed."""
    from agent.enrolment import enrol

    place = _place(folder)
    identity = enrol(url, token, ca_sha256, place)
    print(f"Enrolled as {identity.role} {identity.id} of fleet {identity.fleet}; the files are in {place}")
    if identity.role == "node":
        _configure(identity, place)
    else:
        print(f"The broker is mqtts://{identity.broker_host}:{identity.broker_port}")
    days = (identity.issued_ms - time.time_ns() // 1_000_000) / DAY_MS
    if abs(days) > 1:
        print(f"This device's clock is {abs(days):.0f} days {'behind' if days > 0 else 'ahead'}: set it.")


def renew(folder: Folder = None) -> None:
    """Renew this device's certificate, for the same key. A running agent does this by itself."""
    from agent.enrolment import renew as renew_certificate

    place = _place(folder)
    identity = load_identity(place)
    clock = Clock(0, system_ms=lambda: time.time_ns() // 1_000_000, monotonic_s=time.monotonic)
    if identity is not None:
        clock.learn(identity.issued_ms, identity.expires_ms, just_now=False)
    renewed = renew_certificate(place, check_time=clock.is_credible)
    days = (renewed.expires_ms - renewed.issued_ms) / DAY_MS
    print(f"Renewed {renewed.id} for {days:.0f} days")


def _place(folder: Path | None) -> Path:
    return (folder or identity_folder(_config().state_dir)).expanduser().absolute()


def _config() -> Config:
    """The configuration; one that is named and not there yet is to be written."""
    file = find_config(None)
    return parse_config("", "the environment", os.environ) if file and not file.exists() else load_config()


def _configure(identity: "Identity", place: Path) -> None:
    """Writes the agent's configuration where there is none; says what belongs into one that is there."""
    text = CONFIG.format(
        id=identity.id,
        fleet=identity.fleet,
        host=identity.broker_host,
        port=identity.broker_port,
        ca=place / CA_FILE,
        pem=place / PEM_FILE,
    )
    file = find_config(None) or PATHS[1 if os.geteuid() == 0 else 0]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as output:
            output.write(text)
    except FileExistsError:
        config = load_config()
        found = (config.node.id, config.node.fleet, config.broker.host, config.broker.port, config.broker.cert_file)
        if found != (identity.id, identity.fleet, identity.broker_host, identity.broker_port, str(place / PEM_FILE)):
            print(f"{file} is there already. It must say:\n\n{text}")
            raise typer.Exit(1) from None
    except OSError as error:
        raise EnrolmentError(f"cannot write {file}: {error.strerror}; write it yourself:\n\n{text}") from error
    print(f"Start it with: shoal-agent run{'' if file in PATHS else f' --config {file}'}")
