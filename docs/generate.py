"""Writes the pages that come from the code: `python docs/generate.py`, or with `--check` only compares.

    schemas/*.json   a JSON Schema of every message of the contract, and of a release's manifest
    topics.md        the topics and status codes
    telemetry.md     the columns of telemetry, and what it costs
    agent.toml       the agent's configuration, commented

Exit codes: 0 fine · 1 `--check` found pages that are not current, and names them.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.config import sample
from contract import messages, telemetry, topics
from contract.release import Release
from contract.status import MEANINGS

FOLDER = Path(__file__).resolve().parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MARK = "Made by docs/generate.py from {source}; a change belongs there."


def pages() -> dict[str, str]:
    """Every generated file: its path below `docs/`, and its text."""
    kinds: tuple[type[msgspec.Struct], ...] = (*messages.ALL, Release)
    schemas = {f"schemas/{file_name(kind)}": _json(schema_of(kind)) for kind in kinds}
    return schemas | {"topics.md": topics_page(), "telemetry.md": telemetry_page(), "agent.toml": sample()}


def file_name(kind: type) -> str:
    """`NodeState` becomes `node-state.json`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower() + ".json"


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a message, on its own."""
    _, parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    own: dict[str, Any] = parts.pop(kind.__name__)
    schema = {"$schema": DIALECT, "$id": file_name(kind), "$comment": MARK.format(source=kind.__module__)} | own
    return schema | {"$defs": dict(sorted(parts.items()))} if parts else schema


def topics_page() -> str:
    """The tables of topics and status codes."""
    lines = [
        f"<!-- {MARK.format(source='contract.topics, contract.messages and contract.status')} -->",
        "",
        "# Topics and status codes",
        "",
        f"Every topic stands below `{topics.ROOT}/{{fleet}}/`. What is in braces is an id. How they work together,",
        "and which of them are in use, is in [protocol.md](protocol.md).",
        "",
        "| topic | QoS | retained | written by | what | message |",
        "|---|---|---|---|---|---|",
    ]
    for topic in topics.ALL:
        retained = "yes" if topic.RETAINED else "no"
        cells = [f"`{topic.TEMPLATE}`", str(topic.QOS), retained, topic.WRITER, topic.WHAT, _messages_on(topic)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "A message is JSON and has a schema. Requests may also be plain text.", ""]
    lines += ["| status | meaning |", "|---|---|"]
    lines += [f"| {int(status)} | {meaning} |" for status, meaning in MEANINGS.items()]
    return "\n".join(lines) + "\n"


def telemetry_page() -> str:
    """The columns of each kind of rows, and how often they are sent at each level."""
    lines = [
        f"<!-- {MARK.format(source='contract.telemetry')} -->",
        "",
        "# Telemetry",
        "",
        "A node measures and sends batches of rows on `node/{node}/tele/{kind}`, QoS 0. A batch names its columns, and",
        "leaves out those in which no row says anything. Rows hold numbers, names and histograms, never the text of a",
        "prompt or an answer. What has no meter is null.",
        "",
        "What does not fit into a batch is folded together, the least busy rows first, so a level's bytes a day",
        "(headers of MQTT, TLS and TCP included) are a bound and not an estimate.",
        "",
        "| level | measures the machine every | sends `sys` every | sends `infer` every | kB a day at most |",
        "|---|---|---|---|---|",
    ]
    for level, pace in telemetry.PACES.items():
        every = ["never"] * 3 if pace is None else [f"{s} s" for s in (pace.sample_s, pace.sys_s, pace.infer_s)]
        lines.append(f"| {level} | {' | '.join(every)} | {telemetry.bytes_per_day(level) // 1000:,} |")
    for kind, row in telemetry.KINDS.items():
        lines += ["", f"## {kind}", "", f"{row.__doc__}", "", "| column | what |", "|---|---|"]
        properties = msgspec.json.schema_components([row])[1][row.__name__]["properties"]
        lines += [f"| `{name}` | {about.get('description', '')} |" for name, about in properties.items()]
    return "\n".join(lines) + "\n"


def _messages_on(topic: type[topics.Topic]) -> str:
    links = [f"[{kind.__name__}](schemas/{file_name(kind)})" for kind in messages.ON_TOPIC[topic]]
    inside = messages.SIGNED.get(topic)
    if inside is not None:
        links.append(f"in it [{inside.__name__}](schemas/{file_name(inside)})")
    return ", ".join(links) or "text"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def stale(folder: Path) -> list[str]:
    """Files below `folder` that are not what the code says: other text, missing, or a schema of no message."""
    wanted = pages()
    found = {f"schemas/{path.name}" for path in (folder / "schemas").glob("*.json")}
    old = [name for name, text in wanted.items() if not _holds(folder / name, text)]
    return sorted(old + list(found - wanted.keys()))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


def write(folder: Path) -> list[str]:
    """Brings `folder` up to date; returns what was changed."""
    wanted = pages()
    changed = stale(folder)
    for name in changed:
        path = folder / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[name], "utf-8")
        else:
            path.unlink()
    return changed


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the documentation that comes from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is not current")
    check = parser.parse_args().check
    changed = stale(FOLDER) if check else write(FOLDER)
    for name in changed:
        print(f"docs/{name} is not current: run `make docs`" if check else f"wrote docs/{name}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
