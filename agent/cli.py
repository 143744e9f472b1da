"""`shoal-agent`: the command line of a device.

Exit codes: 0 fine · 1 the command failed or found a fault · 2 wrong usage or configuration · 3 no agent is running.
"""

import os
import sys
from typing import Annotated

import typer

from agent.commands import (
    adapters,
    ask,
    calibrate,
    check,
    conformance,
    doctor,
    enroll,
    models,
    quarantine,
    requests,
    selftest,
    status,
    support_bundle,
    update,
    version,
)
from agent.config import ENV_CONFIG, load_config
from agent.errors import AgentError, ConfigError, ControlError

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

app = typer.Typer(
    name="shoal-agent",
    help="Answers prompts from MQTT with a local language model.",
    epilog="Exit codes: 0 fine, 1 failed or found a fault, 2 wrong usage or configuration, 3 no agent is running.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Configuration file.  [default: ./agent.toml, /etc/shoal/agent.toml]"),
    ] = None,
) -> None:
    if config is not None:
        os.environ[ENV_CONFIG] = config


@app.command()
def run(
    config: Annotated[str | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
) -> None:
    """Run the agent in the foreground, until SIGTERM."""
    if config is not None:
        os.environ[ENV_CONFIG] = config
    load_config()  # says what is wrong before the process is replaced
    # In place of this process: the daemon must not carry the command line's libraries for months.
    os.execv(sys.executable, [sys.executable, "-m", "agent"])  # noqa: S606  # its own module


app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("selftest")(selftest.selftest)
app.command("ask")(ask.ask)
app.command("status")(status.status)
app.command("calibrate")(calibrate.calibrate)
app.command("enroll")(enroll.enroll)
app.command("renew")(enroll.renew)
app.command("support-bundle")(support_bundle.support_bundle)
app.command("version")(version.version)
app.command("rollback")(update.rollback)
app.add_typer(update.app, name="update")
app.add_typer(requests.app, name="requests")
app.add_typer(models.app, name="models")
app.add_typer(adapters.app, name="adapters")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(conformance.app, name="update-conformance", hidden=True)


def main() -> None:
    """The console script."""
    try:
        app()
    except ControlError as error:
        _fail(error, EXIT_NOT_RUNNING)
    except ConfigError as error:
        _fail(error, EXIT_USAGE)
    except AgentError as error:
        _fail(error, EXIT_FAULT)


def _fail(error: AgentError, code: int) -> None:
    print(error, file=sys.stderr)
    sys.exit(code)
