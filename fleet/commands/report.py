"""`fleet report`."""

from typing import Annotated

import typer

from fleet.api.cost import Took
from fleet.cloud.settings import NANO
from fleet.commands.where import Dir, Json, connect
from fleet.cost import energy_cost, hardware_cost, performance_cost_ratio
from fleet.errors import UsageError
from fleet.tables import print_json, print_table

report_app = typer.Typer(no_args_is_help=True, help="Reports over what was measured.")


@report_app.callback()
def report() -> None:
    """Reports over what was measured."""


@report_app.command("cost")
def cost(
    kwh: Annotated[float, typer.Option(min=0, help="What a kilowatt-hour costs.")],
    hours: Annotated[int, typer.Option(min=1, max=48, help="Of how many hours up to now.")] = 24,
    hardware: Annotated[float, typer.Option(min=0, help="What a node costs to buy; 0 leaves it out.")] = 0.0,
    years: Annotated[float, typer.Option(min=0.1, help="How long a node lives.")] = 4.0,
    nodes: Annotated[str, typer.Option(metavar="Q,R", help="Quality and responsiveness of nodes, 0 to 1.")] = "",
    clouds: Annotated[str, typer.Option(metavar="Q,R", help="The same of clouds.")] = "",
    weight: Annotated[float, typer.Option(min=0, max=1, help="Of quality against responsiveness.")] = 0.5,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Show what an answer costs: of nodes with a meter the energy of the whole machine, of clouds what they charge."""
    worths = {"nodes": _worth("--nodes", nodes), "clouds": _worth("--clouds", clouds)}
    with connect(folder) as controller:
        took = controller.get("/v1/reports/cost", Took, hours=hours)
    metered = energy_cost(took.joules, kwh) + hardware_cost(hardware, took.num_metered, hours, years)
    rows = [
        _row("nodes", took.metered_answers, metered, worths["nodes"], weight),
        _row("clouds", took.cloud_answers, took.cloud_nano / NANO, worths["clouds"], weight),
    ]
    if json:
        print_json({"took": took, "rows": rows})
        return
    names = ("of", "answers", "cost", "an answer", "PCR")
    print_table(names, [tuple(_shown(row[name]) for name in names) for row in rows], right=names[1:])
    if took.num_metered < took.num_nodes:
        typer.echo(f"{took.num_nodes - took.num_metered} of {took.num_nodes} nodes have no meter and are left out.")


def _row(
    of: str, answers: int, money: float, worth: tuple[float, float] | None, weight: float
) -> dict[str, str | float | None]:
    each = money / answers if answers else None
    ratio = None if worth is None or each is None else performance_cost_ratio(*worth, each, weight)
    return {"of": of, "answers": answers, "cost": money, "an answer": each, "PCR": ratio}


def _worth(option: str, text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        quality, responsiveness = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"cannot read {option} {text!r}: give two numbers, as in 0.8,0.9") from None
    if not (0 <= quality <= 1 and 0 <= responsiveness <= 1):
        raise UsageError(f"cannot use {option} {text!r}: both are from 0 to 1")
    return quality, responsiveness


def _shown(value: str | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
