"""`fleet init`."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.folder import DEFAULT_PATH, BrokerSection, DatabaseSection, Https, Settings
from fleet.terminal import write


def init(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The controller's folder.")] = DEFAULT_PATH,
    name: Annotated[str | None, typer.Option("--fleet", help="The fleet's id.  [default: home]")] = None,
    host: Annotated[str, typer.Option(help="Name or address at which devices reach this machine.")] = "",
    https_port: Annotated[int, typer.Option(min=1, max=65535, help="Where devices enrol.")] = 8443,
    nodes_port: Annotated[int, typer.Option(min=1, max=65535, help="The broker's port for nodes.")] = 8883,
    clients_port: Annotated[int, typer.Option(min=1, max=65535, help="The broker's port for clients.")] = 8884,
    database: Annotated[str, typer.Option(help="postgresql://…; without, SQLite in the folder.")] = "",
) -> None:
    """Make a controller: authorities, certificates, signing key, database, and the broker's configuration."""
    from fleet.beginning import begin

    settings = Settings(
        fleet=name or ctx.obj.fleet,
        https=Https(host=host, port=https_port),
        broker=BrokerSection(host=host, nodes_port=nodes_port, clients_port=clients_port),
        database=DatabaseSection(url=database),
    )
    made = begin(folder, settings)
    if made is None:
        write(f"{folder} is a controller already; nothing was changed.")
        return
    write(f"Made the controller of fleet {made.fleet!r} in {made.path}")
    write(f"  root certificate  sha256 {made.authority('root').digest}")
    write(f"  admin's token     {made.operator_token}")
    write(f"  keys of releases  {made.path / 'keys'}; carry the three root-*.key away, to separate places")
    write(f"  broker            mosquitto -c {made.broker / 'mosquitto.conf'}")
    write(f"  next              fleet serve {folder}   (for a trial: --embedded-broker)")
