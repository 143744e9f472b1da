"""`fleet status`: the fleet at a glance, from retained messages alone."""

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from contract.topics import BadTopic, ControllerStatus, NodeCard, NodeStatus, parse
from fleet.link import Incoming, Link
from fleet.options import Options
from fleet.overview import Overview, Row
from fleet.terminal import console, one_line, write

UNHEALTHY = 3

# Nothing marks the end of retained messages: they are over after a short silence.
QUIET_S = 0.3
TOTAL_S = 3.0

EPILOG = "Exit codes: 0 all nodes are online, or there are none · 3 something is not · 4 no broker."

COLOURS = {"online": "green", "draining": "yellow", "degraded": "yellow"}


def status(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Stay, and print again whenever something changes; Ctrl-C ends it."),
    ] = False,
) -> None:
    """Show which nodes there are and how they are, worst first."""
    options: Options = ctx.obj
    overview = Overview()
    topics = (NodeStatus, NodeCard, ControllerStatus)
    try:
        with options.open_link() as link:
            link.subscribe({topic.filter(options.fleet): topic.QOS for topic in topics})
            _take_all(link, overview)
            _show(overview, options, json)
            while watch:
                _wait_for_change(link, overview)
                _show(overview, options, json)
    except KeyboardInterrupt:
        pass  # the way to end --watch
    if not overview.healthy:
        raise typer.Exit(UNHEALTHY)


def _take_all(link: Link, overview: Overview) -> None:
    for incoming in link.messages(total_s=TOTAL_S, quiet_s=QUIET_S):
        _take(overview, incoming)


def _wait_for_change(link: Link, overview: Overview) -> None:
    before = (dict(overview.statuses), dict(overview.cards), overview.controller)
    while before == (overview.statuses, overview.cards, overview.controller):
        incoming = link.next(TOTAL_S)
        if incoming is not None:
            _take(overview, incoming)
            _take_all(link, overview)  # a change seldom comes alone: print once for all of it


def _take(overview: Overview, incoming: Incoming) -> None:
    try:
        _, topic = parse(incoming.topic)
    except BadTopic:
        return
    overview.take(topic, incoming.payload)


def _show(overview: Overview, options: Options, json: bool) -> None:
    now_ms = time.time_ns() // 1_000_000
    if json:
        write(msgspec.json.encode(overview.as_json(now_ms)).decode())
        return
    write(overview.verdict())
    rows = overview.rows(now_ms)
    if rows:
        console(sys.stdout).print(_table(rows))
    else:
        write(
            f"Nothing is retained for fleet {options.fleet!r} at {options.broker}. Is an agent running "
            "(shoal-agent status), with this broker and this fleet in its configuration, and may this user read it? "
            "--broker and --fleet choose other ones."
        )


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for title in ("node", "state", "since", "model", "tok/s", "context", "RAM", "agent"):
        right = title in ("since", "tok/s", "context", "RAM")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "model")
    for row in rows:
        cells = (
            f"{row.decode_tok_s:.0f}" if row.decode_tok_s is not None else "-",
            str(row.context_tokens or "-"),
            f"{row.ram_mib / 1024:.1f} GiB" if row.ram_mib else "-",
            one_line(row.agent or "-"),
        )
        state = Text(row.state, COLOURS.get(row.state, "red"))
        table.add_row(row.node, state, age(row.age_s), one_line(row.model or "-"), *cells)
    return table


def age(age_s: float | None) -> str:
    """An age in one unit, as in "3 min"."""
    if age_s is None:
        return "-"
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"
