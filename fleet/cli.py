"""The `fleet` command. Every error of ours becomes one sentence and an exit code."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fleet.broker_url import DEFAULT_URL, ENV_BROKER
from fleet.commands import (
    apply,
    ask,
    audit,
    backup,
    bundle,
    demo,
    identity,
    init,
    login,
    nodes,
    operator,
    publish,
    release_keys,
    releases,
    report,
    rollout,
    serve,
    status,
    steering,
    version,
)
from fleet.errors import FleetError
from fleet.options import check_options
from fleet.terminal import complain

EPILOG = (
    "Exit codes: 0 well · 1 it did not work · 2 wrong usage · 3 something is not well · 4 no controller or broker · "
    "5 not allowed."
)

app = typer.Typer(name="fleet", no_args_is_help=True, epilog=EPILOG, pretty_exceptions_enable=False)
app.command(epilog=ask.EPILOG)(ask.ask)
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=demo.EPILOG)(demo.demo)
app.command()(init.init)
app.command()(serve.serve)
app.command()(backup.backup)
app.command()(backup.restore)
app.add_typer(identity.token_app, name="token")
app.add_typer(identity.client_app, name="client")
app.command()(identity.revoke)
app.add_typer(operator.operator_app, name="operator")
app.command()(audit.audit)
app.add_typer(report.report_app, name="report")
app.command()(nodes.nodes)
app.command()(nodes.show)
app.command()(nodes.why)
app.command()(nodes.forget)
app.command("set", epilog=steering.SET_EPILOG)(steering.set_wish)
app.command("cmd", epilog=steering.CMD_EPILOG)(steering.command)
app.add_typer(steering.group_app, name="group")
app.add_typer(publish.model_app, name="model")
app.add_typer(publish.adapter_app, name="adapter")
app.add_typer(releases.release_app, name="release")
releases.release_app.add_typer(release_keys.keys_app, name="keys")
for signing in (release_keys.pending, release_keys.sign, release_keys.submit):
    releases.release_app.command()(signing)
app.add_typer(bundle.bundle_app, name="bundle")
app.add_typer(rollout.rollout_app, name="rollout")
app.command(epilog=apply.PLAN_EPILOG)(apply.plan)
app.command()(apply.apply)
app.command()(login.login)
app.command()(version.version)


@app.callback()
def common(
    ctx: typer.Context,
    broker: Annotated[
        str | None,
        typer.Option(
            envvar=ENV_BROKER, help=f"mqtt://[user[:password]@]host[:port], or mqtts://.  [default: {DEFAULT_URL}]"
        ),
    ] = None,
    fleet: Annotated[str, typer.Option(envvar="SHOAL_FLEET", help="The fleet's id.")] = "home",
    ca: Annotated[Path | None, typer.Option(help="Certificates that sign the broker's (with mqtts://).")] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificate to show to the broker.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of that certificate.")] = None,
) -> None:
    """Ask the nodes of a Shoal fleet, see how they are, and change what they run."""
    ctx.obj = check_options(broker=broker, fleet=fleet, ca=ca, cert=cert, key=key)


def main() -> None:
    """The console script."""
    try:
        app()
    except FleetError as error:
        complain(str(error))
        sys.exit(error.exit_code)
