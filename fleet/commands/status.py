"""`fleet status`: the fleet at a glance, from its controller, or from its broker where there is none."""

import time
from typing import Annotated

import typer

from fleet.api.summary import Summary
from fleet.commands.where import Dir, Json
from fleet.login import Login, find_login
from fleet.options import Options
from fleet.tables import age, print_json, print_table
from fleet.terminal import one_line, write

UNHEALTHY = 3
AGAIN_S = 2.0

EPILOG = "Exit codes: 0 all is well, or there are no nodes · 3 something is not · 4 no controller, or no broker."


def status(
    ctx: typer.Context,
    json: Json = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Stay, and print again whenever something changes; Ctrl-C ends it."),
    ] = False,
    folder: Dir = None,
) -> None:
    """Show how the fleet is: the verdict, then what is not well, worst first.

    With --broker, or where there is no controller, from what nodes say at the broker.
    """
    options: Options = ctx.obj
    login = None if options.is_broker_named else find_login(folder)
    if login is None:
        from fleet.commands.broker_status import show_status

        is_well = show_status(options, json=json, watch=watch)
    else:
        is_well = _watch(login, json=json) if watch else _show_once(login, json=json)
    if not is_well:
        raise typer.Exit(UNHEALTHY)


def is_well(summary: Summary) -> bool:
    """Whether nothing is wrong, as far as the controller knows."""
    return not (summary.num_unwell or summary.num_never_came or summary.broker_down_s is not None) and summary.is_stored


def verdict(summary: Summary) -> str:
    """One line, such as "not well: 1 of 3 nodes; 2 online, 1 lost"."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items(), key=lambda one: -one[1]))
    besides = {"revoked": summary.num_revoked, "not enrolled yet": summary.num_not_enrolled}
    states = ", ".join([*([states] if states else []), *(f"{n} {what}" for what, n in besides.items() if n)])
    nodes = f"{summary.num_nodes} node{'' if summary.num_nodes == 1 else 's'}"
    if summary.broker_down_s is not None:
        return f"blind: no connection to the broker for {age(summary.broker_down_s)}; {nodes} known: {states or 'none'}"
    if not summary.is_stored:
        return f"not well: the database does not take what comes; {nodes}: {states or 'none'}"
    if summary.num_unwell or summary.num_never_came:
        never = f", {summary.num_never_came} enrolled and never came" if summary.num_never_came else ""
        return f"not well: {summary.num_unwell} of {nodes}; {states or 'none heard'}{never}"
    return f"well: {nodes}, {states}" if states else "no nodes yet: `fleet token create` lets one enrol"


def _show_once(login: Login, *, json: bool) -> bool:
    from fleet.remote import Controller

    with Controller(login) as controller:
        summary = controller.get("/v1/status", Summary)
    return _show(summary, json=json)


def _watch(login: Login, *, json: bool) -> bool:
    from fleet.errors import ControllerError
    from fleet.remote import Controller
    from fleet.terminal import warn

    healthy = True
    try:
        while True:
            try:
                with Controller(login) as controller:
                    for summary in controller.events("/v1/events", Summary):
                        healthy = _show(summary, json=json)
            except ControllerError as error:
                healthy = False
                warn(str(error))
            time.sleep(AGAIN_S)
    except KeyboardInterrupt:
        return healthy


def _show(summary: Summary, *, json: bool) -> bool:
    if json:
        print_json(summary)
        return is_well(summary)
    write(verdict(summary))
    heard = "nothing was ever heard" if summary.heard_ms is None else f"data {_old(summary, summary.heard_ms)} old"
    gaps = f"; {summary.num_gaps} batches of telemetry are missing" if summary.num_gaps else ""
    bad = f"; {summary.num_bad_messages} messages were left out" if summary.num_bad_messages else ""
    write(f"{heard}{gaps}{bad}")
    for rollout in summary.rollouts:
        counts = ", ".join(f"{count} {name}" for name, count in rollout.counts.items() if count)
        waits = f"; waits for {one_line(rollout.waits)}" if rollout.waits else ""
        write(f"rollout {rollout.id} {rollout.phase}: {rollout.release}, wave {rollout.wave}; {counts}{waits}")
    _show_worst(summary)
    return is_well(summary)


def _show_worst(summary: Summary) -> None:
    rows = [(one.node, one.state, _old(summary, one.seen_ms), one.summary) for one in summary.worst]
    rows += [(node, "never came", "-", "it has an identity and was never heard") for node in summary.never_came]
    rows += [(node, "not enrolled", "-", "its token was not used yet") for node in summary.not_enrolled]
    if rows:
        print_table(("node", "state", "seen", "why"), rows, right=("seen",))
        left = summary.num_unwell + summary.num_never_came + summary.num_not_enrolled - len(rows)
        if left > 0:
            write(f"… and {left} more; `fleet nodes 'not online'` lists them")


def _old(summary: Summary, at_ms: int | None) -> str:
    return age(None if at_ms is None else max(0, summary.at_ms - at_ms) / 1000)
