"""`fleet set`, `fleet cmd` and `fleet group`: changing what nodes run."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from fleet.commands.where import Dir, Json, connect
from fleet.errors import UsageError
from fleet.tables import print_json, print_table
from fleet.terminal import complain, one_line, write

if TYPE_CHECKING:
    from fleet.api.steering import Progress, Wished
    from fleet.remote import Controller

UNHEALTHY = 3
LOOK_S = 1.0
NUM_SHOWN = 20

SET_EPILOG = (
    "Exit codes: 0 the nodes that are there have it (others get it when they come) · 1 a node is not done in time · "
    "3 a node could not do it."
)
CMD_EPILOG = "Exit codes: 0 done · 1 it failed, the node is not there, or it did not answer in time."

group_app = typer.Typer(help="Saved queries, and settings for all nodes that fit one.", no_args_is_help=True)

GroupName = Annotated[str, typer.Argument(help="The group's name, an id.")]
Pairs = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings, as in log.level=debug.")]


def set_wish(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE] [KEY=VALUE]…", help="A node, and settings; KEY= unsets one.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="All nodes that fit, in place of NODE.")] = None,
    model: Annotated[str | None, typer.Option(help="name or name@version; empty: the node's own default.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="An adapter that shall be active; may be repeated. Empty: none.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the nodes that are there have it.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait.")] = 120.0,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Say what nodes shall be. For those that are not there it waits in their desired state."""
    from fleet.api.steering import NewWish, Wished

    given = list(words or ())
    node = given.pop(0) if given and "=" not in given[0] else None
    if (node is None) == (query is None):
        raise UsageError("cannot tell which nodes: name a node, or give --query")
    wish = NewWish(
        nodes=None if node is None else [node],
        query=query,
        settings=read_settings(given),
        model=msgspec.UNSET if model is None else model or None,
        adapters=msgspec.UNSET if adapter is None else [name for name in adapter if name],
    )
    with connect(folder) as controller:
        wished = controller.send("POST", "/v1/wishes", list[Wished], wish)
        found = _wait(controller, wished, timeout if wait else 0, quiet=json)
    if json:
        print_json({"wished": wished, "progress": found})
    else:
        _tell(found, wait=wait)
    if any(one.state == "failed" for one in found):
        raise typer.Exit(UNHEALTHY)
    if wait and any(one.state == "working" for one in found):
        raise typer.Exit(1)


def command(
    node: Annotated[str, typer.Argument(help="The node's id.")],
    op: Annotated[str, typer.Argument(help="restart-engine, selftest, drain, undrain or logs.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="As in lines=50.")] = None,
    timeout: Annotated[float, typer.Option(min=1, max=600, help="Seconds to wait for the answer.")] = 60.0,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Have a node do something once, and show what came of it."""
    from typing import get_args

    from fleet.api.steering import CommandOutcome, NewCommand, Op

    if op not in get_args(Op):
        raise UsageError(f"cannot send command {op!r}: there are {', '.join(get_args(Op))}")
    body = NewCommand(op=op, args=read_settings(arguments), timeout_s=timeout)  # type: ignore[arg-type]  # just checked
    with connect(folder) as controller:
        done = controller.send("POST", f"/v1/nodes/{node}/commands", CommandOutcome, body, timeout=timeout + 10)
    if json:
        print_json(done)
    elif done.outcome == "done":
        _show_result(done.result or {})
    if done.outcome != "done":
        why = {"offline": "it is not connected", "late": f"it did not answer within {timeout:g} s"}
        complain(f"cannot have {node} do {op}: {why.get(done.outcome) or done.error or f'status {done.status}'}")
        raise typer.Exit(1)


@group_app.command("ls")
def ls(json: Json = False, folder: Dir = None) -> None:
    """List groups, with how many nodes are in them and what their policies say."""
    from fleet.api.steering import Group

    with connect(folder) as controller:
        groups = controller.get("/v1/groups", list[Group])
    if json:
        print_json(groups)
        return
    rows = [
        (one.name, str(one.num_nodes), one.query, "-" if one.settings is None else _text(one.settings))
        for one in groups
    ]
    print_table(("group", "nodes", "query", "policy"), rows, right=("nodes",))


@group_app.command("save")
def save(name: GroupName, query: Annotated[str, typer.Argument(help="Who is in it.")], folder: Dir = None) -> None:
    """Save a query under a name, in place of the one that it had."""
    from fleet.api.forms import Nothing
    from fleet.api.steering import NewGroup

    with connect(folder) as controller:
        controller.send("PUT", f"/v1/groups/{name}", Nothing, NewGroup(query=query))
    write(f"Saved group {name}.")


@group_app.command("policy")
def policy(name: GroupName, pairs: Pairs = None, folder: Dir = None) -> None:
    """Give the nodes of a group settings, in place of those of its policy before; a node's own win."""
    from fleet.api.steering import NewPolicy, PolicyMade

    body = NewPolicy(settings=read_settings(pairs))
    with connect(folder) as controller:
        made = controller.send("PUT", f"/v1/groups/{name}/policy", PolicyMade, body)
    write(f"The policy of group {name} has revision {made.rev}; nodes that are away get it when they come.")


@group_app.command("rm")
def remove(name: GroupName, folder: Dir = None) -> None:
    """Delete a group and its policy."""
    from fleet.api.forms import Nothing

    with connect(folder) as controller:
        controller.send("DELETE", f"/v1/groups/{name}", Nothing)
    write(f"Deleted group {name}.")


def read_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Settings from words such as `limits.queue=64`: a value is JSON if it can be, else text; without one it is null.

    Raises:
        UsageError: a word has no `=`, or a key comes twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read {pair!r}: write KEY=VALUE, as in log.level=debug")
        if key in found:
            raise UsageError(f"cannot set {key} twice: give it once")
        try:
            found[key] = msgspec.json.decode(text) if text else None
        except msgspec.DecodeError:
            found[key] = text
    return found


def _wait(controller: "Controller", wished: "list[Wished]", timeout_s: float, *, quiet: bool) -> "list[Progress]":
    """How far they are: at once, and until the nodes that are there have come to an end or the time is over."""
    until, said, ended = time.monotonic() + timeout_s, "", dict[str, "Progress"]()
    while True:
        open_ones = [one for one in wished if one.node not in ended]
        found = _ask(controller, open_ones)
        ended |= {one.node: one for one in found if one.state in ("done", "failed")}
        working = [one for one in found if one.state == "working"]
        now = f"{len(ended)} of {len(wished)} at an end, {len(working)} working"
        if working and now != said and not quiet:
            phases = sorted({one.phase for one in working if one.phase})
            write(f"{now}{f' ({chr(44).join(phases)})' if phases else ''}")
            said = now
        if not working or time.monotonic() >= until:
            latest = ended | {one.node: one for one in found}
            return [latest[one.node] for one in wished if one.node in latest]
        time.sleep(LOOK_S)


def _ask(controller: "Controller", wished: "list[Wished]") -> "list[Progress]":
    from fleet.api.steering import MAX_ASKED, Awaited, Progress, Waiting

    found: list[Progress] = []
    for start in range(0, len(wished), MAX_ASKED):
        part = [Waiting(one.node, one.rev) for one in wished[start : start + MAX_ASKED] if one.rev]
        if part:
            found += controller.send("POST", "/v1/progress", list[Progress], Awaited(wishes=part))
    return found


def _tell(found: "list[Progress]", *, wait: bool) -> None:
    done, waiting = ([one for one in found if one.state == state] for state in ("done", "waiting"))
    others = [one for one in found if one.state in ("failed", "working")]
    if done:
        write(f"Done: {_names(done)}.")
    if waiting:
        write(f"Not there now: {_names(waiting)}; it waits in the desired state, and they get it when they come.")
    for one in others[:NUM_SHOWN]:
        why = f": {one_line(one.error)}" if one.error else ""
        write(f"{one.node} {'could not do it' if one.state == 'failed' else 'is not done'} ({one.phase or '-'}){why}")
    if len(others) > NUM_SHOWN:
        write(f"… and {len(others) - NUM_SHOWN} more")
    if not wait and others:
        write("`fleet show NODE` says how far they are.")
    if not found:
        write("Nothing to do: no node fits, or all have nothing else wished.")


def _names(found: "list[Progress]") -> str:
    names = ", ".join(f"{one.node} (revision {one.rev})" for one in found[:NUM_SHOWN])
    return names if len(found) <= NUM_SHOWN else f"{names} and {len(found) - NUM_SHOWN} more"


def _show_result(result: dict[str, Any]) -> None:
    lines = result.get("lines")
    if isinstance(lines, list):
        write("\n".join(str(line) for line in lines))
    else:
        write(_text(result) if result else "Done.")


def _text(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in values.items()) or "nothing"
