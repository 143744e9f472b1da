"""`fleet nodes`, `fleet show`, `fleet why` and `fleet forget`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.commands.where import Dir, Json, connect, path
from fleet.errors import UsageError
from fleet.fields import FIELDS, Kind, Record, kind_of, values_of
from fleet.tables import age, date, print_json, print_table
from fleet.terminal import one_line, write

if TYPE_CHECKING:
    from fleet.api.nodes import Detail, NodePage

UNHEALTHY = 3
HIDDEN = ("first_token_ms", "token_ms")  # histograms
COLUMNS = "node,state,last_seen,site,active,decode_tok_s,ram_mib,agent"

Node = Annotated[str, typer.Argument(help="The node's id.")]


def nodes(
    query: Annotated[
        str | None, typer.Argument(help="Which, as in 'site=store-7 and ram_mib<4096 and not online'.  [default: all]")
    ] = None,
    columns: Annotated[str, typer.Option(help=f"Fields: {', '.join(FIELDS)}, label.NAME.")] = COLUMNS,
    sort: Annotated[str, typer.Option(help="A field; with - before it downwards.")] = "node",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """List the nodes that fit a query."""
    shown = columns.split(",")
    unknown = [field for field in shown if kind_of(field) is None]
    if unknown:
        raise UsageError(f"cannot show column {unknown[0]!r}: there are {', '.join(FIELDS)} and label.NAME")
    page = _pages(folder, query, sort, limit)
    if json:
        print_json(page)
        return
    rows = [[_cell(record, field, page.at_ms) for field in shown] for record in page.nodes]
    print_table(shown, rows, right=[field for field in shown if kind_of(field) is not Kind.TEXT])
    left = page.num_nodes - len(page.nodes)
    more = f", {left} more with --limit" if left else ""
    heard = (
        "nothing was ever heard" if page.heard_ms is None else f"data {age((page.at_ms - page.heard_ms) / 1000)} old"
    )
    write(f"{page.num_nodes} node{'' if page.num_nodes == 1 else 's'}{more}; {heard}")


def show(node: Node, json: Json = False, folder: Dir = None) -> None:
    """Show all that is known of a node, and how old it is."""
    from fleet.api.nodes import Detail

    with connect(folder) as controller:
        detail = controller.get(path("nodes", node), Detail)
    if json:
        print_json(detail)
        return
    for title, text in _lines(detail):
        write(f"{title:<12} {one_line(text)}")


def why(node: Node, json: Json = False, folder: Dir = None) -> None:
    """Say why a node is not well: the root first, what shows it, and what to do."""
    from fleet.api.nodes import Why

    with connect(folder) as controller:
        found = controller.get(path("nodes", node, "why"), Why)
    if json:
        print_json(found)
    elif not found.causes:
        seen_s = found.evidence.seen_s
        write(f"{node} is well, as far as is known; {'never heard' if seen_s is None else f'heard {age(seen_s)} ago'}.")
    for number, cause in enumerate(() if json else found.causes):
        write(f"{'' if number else f'{node}: '}{'besides: ' if number else ''}{cause.summary} ({cause.name})")
        for line in cause.evidence:
            write(f"  - {one_line(line)}")
        write(f"  → {cause.advice}")
    if found.causes:
        raise typer.Exit(UNHEALTHY)


def forget(node: Node, folder: Dir = None) -> None:
    """Take a node that is revoked out of the fleet, with all that it said last and that was wished of it."""
    from fleet.api.forms import Nothing

    with connect(folder) as controller:
        controller.send("DELETE", path("nodes", node), Nothing)
    write(f"{node} is forgotten.")


def _pages(folder: Path | None, query: str | None, sort: str, limit: int) -> "NodePage":
    """As many pages as it takes, as one."""
    from msgspec.structs import replace

    from fleet.api.nodes import MAX_PAGE, NodePage

    found: list[Record] = []
    with connect(folder) as controller:
        while True:
            size = min(MAX_PAGE, limit - len(found))
            page = controller.get("/v1/nodes", NodePage, query=query, sort=sort, offset=len(found), limit=size)
            found += page.nodes
            if not page.nodes or len(found) >= min(limit, page.num_nodes):
                return replace(page, nodes=found)


def _cell(record: Record, field: str, at_ms: int) -> str:
    values = values_of(field, record, at_ms)
    if kind_of(field) is Kind.AGE:
        return age(float(values[0]) / 1000) if values else "-"
    return ", ".join(f"{value:.0f}" if isinstance(value, float) else str(value) for value in values) or "-"


def _lines(detail: "Detail") -> list[tuple[str, str]]:
    """What is known, as titles and texts."""
    from msgspec.structs import asdict

    record, lines = detail.record, list[tuple[str, str]]()

    def line(title: str, *parts: Any) -> None:
        if text := ", ".join(str(part) for part in parts if part not in (None, "", ())):
            lines.append((title, text))

    line("node", record.node)
    line("state", record.state, f"last heard {date(record.last_seen_ms)}")
    line("site", record.site)
    line("labels", *(f"{name}={value}" for name, value in record.labels.items()))
    line("pools", *record.pools)
    line("machine", record.machine, record.processor, record.cores and f"{record.cores} cores", record.os)
    line("memory", record.ram_mib and f"{record.ram_mib} MiB")
    line("agent", record.agent)
    line("models", *record.models)
    line("adapters", *record.adapters)
    line("active", record.active, record.decode_tok_s and f"{record.decode_tok_s:.0f} tokens/s")
    if detail.desired is not None:
        wish = detail.desired
        line("wished", f"revision {wish.rev}", wish.model, *wish.adapters, *_pairs(wish.settings))
        line("groups", *wish.groups)
    line("rollout", detail.rollout)
    if detail.reported is not None:
        said = detail.reported
        settings = _pairs(said.settings)
        line("reported", f"revision {said.rev}", said.phase, said.error, *settings, date(detail.reported_ms))
        line("gate", *_pairs(said.gate or {}))
    if detail.sys is not None:
        line("measured", date(detail.sys_ms), *_pairs(asdict(detail.sys)))
    if detail.infer is not None:
        counted = {name: value for name, value in asdict(detail.infer).items() if name not in HIDDEN}
        line("last hour", *_pairs(counted))
    line("missing", *(f"{count} batches of {kind}" for kind, count in detail.gaps.items() if count))
    for seen in detail.events:
        line("event", date(seen.at_ms), seen.kind, seen.event.name, *_pairs(seen.event.data))
    return lines


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items() if value not in (None, "")]
