"""`fleet rollout`: giving nodes a release in waves, and watching it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from fleet.commands.rollout_text import OVER, counted, progress, show, show_forecast, show_nodes, wave_of
from fleet.commands.where import Dir, Json, connect, path
from fleet.duration import parse_duration
from fleet.errors import ControllerError, UsageError
from fleet.tables import date, print_json, print_table
from fleet.terminal import warn, write

if TYPE_CHECKING:
    from fleet.api.rollouts import NewGrowth, NodeView, RolloutView
    from fleet.remote import Controller

T = TypeVar("T")

UNHEALTHY = 3
LOOK_S = 1.0
WATCH_EPILOG = "Exit codes: 0 completed · 3 aborted."
STATUS_EPILOG = "Exit codes: 0 it goes on, or is completed · 3 it is paused, aborted, or goes back."

rollout_app = typer.Typer(help="Give nodes a release in waves; stops by itself when it is bad.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id, as in r7.")]
Release = Annotated[str, typer.Argument(help="name@version.")]
Query = Annotated[str | None, typer.Argument(help="Which nodes, now and as they come.  [default: all]")]
Group = Annotated[str | None, typer.Option(help="The nodes that fit a group's query, in place of QUERY.")]
Waves = Annotated[str, typer.Option(help="How many have been given it at the end of each, as in 1,10%,100%.")]
Grow = Annotated[str | None, typer.Option(metavar="FIRST,FACTOR", help="Waves that grow, as in 1,2; not --waves.")]
Spread = Annotated[str | None, typer.Option(help="A field over whose values each wave is spread, as in machine.")]
Soak = Annotated[str, typer.Option(help="From the end of a wave's last node until it is judged.")]
Confirmed = Annotated[float, typer.Option(min=0, max=100, help="Percent of a wave's nodes that must have it.")]
Success = Annotated[str | None, typer.Option(help="What pauses it after a wave, as in error_rate=0.05,p95_ratio=2.")]
Abort = Annotated[str | None, typer.Option(help="What ends it at any time, as in failed=5%,rejected=1,crashes=3.")]
Keep = Annotated[bool, typer.Option("--keep", help="When it is aborted, nodes that are well with it keep it.")]
Approve = Annotated[list[int] | None, typer.Option(min=1, help="A wave that somebody must approve; may be repeated.")]
Window = Annotated[
    list[str] | None, typer.Option(help="When nodes may begin, as in 'sat,sun 22:00-06:00 Europe/Berlin'.")
]
Unavailable = Annotated[str, typer.Option(help="How many nodes may be on their way at a time.")]
Overdue = Annotated[str, typer.Option(help="A node that is there and does not end for so long has failed.")]
Patience = Annotated[str, typer.Option(help="How long nodes that are away are waited for.")]


def order(
    ctx: typer.Context, release: Release, query: Query = None, group: Group = None,
    waves: Waves = "10%,50%,100%", grow: Grow = None, spread: Spread = None, soak: Soak = "1h",
    confirmed: Confirmed = 90.0, success: Success = None, abort: Abort = None, keep: Keep = False,
    approve: Approve = None, window: Window = None, max_unavailable: Unavailable = "10%", overdue: Overdue = "24h",
    patience: Patience = "7d", json: Json = False, folder: Dir = None,
) -> None:  # fmt: skip
    """`plan` and `start`, which take the same words."""
    from fleet.api.rollouts import EVERYBODY, Forecast, Limits, NewRollout, RolloutView

    limits = {"success": success, "abort": abort}
    with connect(folder) as controller:
        wanted = NewRollout(
            release=release,
            query=query or (EVERYBODY if group is None else _query_of(controller, group)),
            waves=tuple(waves.split(",")),
            growth=None if grow is None else _growth(grow),
            stratify_by=spread,
            soak_s=parse_duration(soak) / 1000,
            confirmed_percent=confirmed,
            **{name: _pairs(text, Limits) for name, text in limits.items() if text is not None},
            on_abort="keep" if keep else "revert",
            approve_before=tuple(approve or ()),
            windows=tuple(window or ()),
            max_unavailable=max_unavailable,
            overdue_s=parse_duration(overdue) / 1000,
            patience_s=parse_duration(patience) / 1000,
        )
        if ctx.info_name == "plan":
            found = controller.send("POST", "/v1/rollouts/plan", Forecast, wanted)
            print_json(found) if json else show_forecast(found)
            return
        begun = controller.send("POST", "/v1/rollouts", RolloutView, wanted)
    if json:
        print_json(begun)
        return
    show(begun)
    write(f"`fleet rollout watch {begun.id}` follows it.")


rollout_app.command("plan", help="Show who would get a release in which wave; nothing is done.")(order)
rollout_app.command("start", help="Begin to give nodes a release, in waves.")(order)


@rollout_app.command("ls")
def ls(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """List rollouts, those begun last first."""
    from fleet.api.rollouts import RolloutView

    with connect(folder) as controller:
        found = controller.get("/v1/rollouts", list[RolloutView], limit=limit)
    if json:
        print_json(found)
        return
    rows = [(one.id, one.plan.release, one.phase, wave_of(one), date(one.created_ms), counted(one)) for one in found]
    print_table(("rollout", "release", "state", "wave", "begun", "nodes"), rows)


@rollout_app.command("status", epilog=STATUS_EPILOG)
def status(
    rollout: Id,
    nodes: Annotated[bool, typer.Option("--nodes", help="All nodes, not only those that could not have it.")] = False,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Show how far a rollout is: the verdict, what it waits for, then nodes."""
    with connect(folder) as controller:
        found, of_it = _ask(controller, rollout)
    if json:
        print_json({"rollout": found, "nodes": of_it})
    else:
        show(found)
        show_nodes(of_it if nodes else [one for one in of_it if one.error])
    if found.phase not in ("running", "completed"):
        raise typer.Exit(UNHEALTHY)


@rollout_app.command("watch", epilog=WATCH_EPILOG)
def watch(rollout: Id, json: Json = False, folder: Dir = None) -> None:
    """Follow a rollout to its end."""
    found = _follow(rollout, folder, json=json)
    if found.phase == "aborted":
        raise typer.Exit(UNHEALTHY)


@rollout_app.command("pause")
def pause(
    rollout: Id,
    reason: Annotated[str, typer.Option(help="For whoever resumes it.")] = "an operator paused it",
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Let no further node begin; those that have begun go on."""
    from fleet.api.rollouts import NewPause

    _tell(rollout, "pause", NewPause(reason=reason), folder, json=json)


@rollout_app.command("resume")
def resume(
    rollout: Id,
    pause: Annotated[int, typer.Argument(min=1, help="The number of the pause, which says that its reason was read.")],
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Go on after a pause; `status` says its number and its reason."""
    from fleet.api.rollouts import Resumed

    _tell(rollout, "resume", Resumed(pause=pause), folder, json=json)


@rollout_app.command("approve")
def approve(
    rollout: Id,
    wave: Annotated[int, typer.Argument(min=1, help="Which wave may begin.")],
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Let a wave begin that waits for approval, or will."""
    from fleet.api.rollouts import Approved

    _tell(rollout, "approve", Approved(wave=wave), folder, json=json)


@rollout_app.command("abort")
def abort(
    rollout: Id,
    keep: Annotated[bool, typer.Option("--keep", help="Nodes that are well with it keep it.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "an operator aborted it",
    json: Json = False,
    folder: Dir = None,
) -> None:
    """End a rollout: nodes go back to what they had."""
    from fleet.api.rollouts import NewAbort

    _tell(rollout, "abort", NewAbort(reason=reason, revert=not keep), folder, json=json)


def _ask(controller: "Controller", rollout: str) -> "tuple[RolloutView, list[NodeView]]":
    from fleet.api.rollouts import NodeView, RolloutView

    found = controller.get(path("rollouts", rollout), RolloutView)
    return found, controller.get(path("rollouts", rollout, "nodes"), list[NodeView])


def _follow(rollout: str, folder: Path | None, *, json: bool) -> "RolloutView":
    """Says each change, until it is over; a controller that starts anew is waited for."""
    last: RolloutView | None = None
    nodes: list[NodeView] = []
    said = ""
    with connect(folder) as controller:
        while last is None or last.phase not in OVER:
            if last is not None:
                time.sleep(LOOK_S)
            try:
                found, nodes = _ask(controller, rollout)
            except ControllerError as error:
                if last is None:
                    raise
                warn(str(error))
                continue
            if found != last:
                print_json(found) if json else show(found)
            if (now := progress(nodes)) and now != said and not json:
                write(now)
            last, said = found, now
        if not json:
            show_nodes([one for one in nodes if one.error])
    return last


def _tell(rollout: str, order: str, body: msgspec.Struct, folder: Path | None, *, json: bool) -> None:
    from fleet.api.rollouts import RolloutView

    with connect(folder) as controller:
        found = controller.send("POST", path("rollouts", rollout, order), RolloutView, body)
    print_json(found) if json else show(found)


def _query_of(controller: "Controller", group: str) -> str:
    from fleet.api.steering import Group

    groups = {one.name: one.query for one in controller.get("/v1/groups", list[Group])}
    if group not in groups:
        raise UsageError(f"cannot find group {group!r}: there are {', '.join(groups) or 'none'}")
    return groups[group]


def _growth(text: str) -> "NewGrowth":
    from fleet.api.rollouts import NewGrowth

    first, _, factor = text.partition(",")
    return _checked({"first": first, "factor": factor}, NewGrowth, text)


def _pairs(text: str, kind: "type[T]") -> "T":
    return _checked(dict(pair.partition("=")[::2] for pair in text.split(",") if pair), kind, text)


def _checked(values: dict[str, str], kind: "type[T]", text: str) -> "T":
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        expected = str(error)
        raise UsageError(f"cannot read {text!r}: {expected[:1].lower()}{expected[1:]}") from None
