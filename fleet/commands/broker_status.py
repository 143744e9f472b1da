"""`fleet status` for a fleet without a controller: from what is retained at the broker alone."""

import time

import msgspec

from contract.topics import BadTopic, ControllerStatus, NodeCard, NodeStatus, parse
from fleet.link import Incoming, Link
from fleet.options import Options
from fleet.overview import Overview, Row
from fleet.tables import age, print_table
from fleet.terminal import write

# Nothing marks the end of retained messages: they are over after a short silence.
QUIET_S = 0.3
TOTAL_S = 3.0


def show_status(options: Options, *, json: bool, watch: bool) -> bool:
    """Shows which nodes there are and how they are, worst first; returns whether all are well."""
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
    return overview.healthy


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
        titles = ("node", "state", "since", "model", "tok/s", "context", "RAM", "agent")
        print_table(titles, map(_cells, rows), right=("since", "tok/s", "context", "RAM"))
    else:
        write(
            f"Nothing is retained for fleet {options.fleet!r} at {options.broker}. Is an agent running "
            "(shoal-agent status), with this broker and this fleet in its configuration, and may this user read it? "
            "--broker and --fleet choose other ones."
        )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.node,
        row.state,
        age(row.age_s),
        row.model or "-",
        f"{row.decode_tok_s:.0f}" if row.decode_tok_s is not None else "-",
        str(row.context_tokens or "-"),
        f"{row.ram_mib / 1024:.1f} GiB" if row.ram_mib else "-",
        row.agent or "-",
    )
