"""Tables, dates and JSON as commands print them."""

import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from fleet.terminal import console, one_line, write

COLOURS = {"online": "green", "draining": "yellow", "degraded": "yellow", "offline": "red", "lost": "red"}


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """Prints rows under titles; columns in `right` are aligned to the right. A terminal may cut the last into lines."""
    lines = [[one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():  # whoever reads this wants no colours, and need not wait for rich
        widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
        for line in (titles, *lines):
            cells = [
                cell.rjust(width) if title in right else cell.ljust(width)
                for title, cell, width in zip(titles, line, widths, strict=True)
            ]
            write("  ".join(cells).rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=title != titles[-1])
    for line in lines:
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in line))
    console(sys.stdout).print(table)


def print_json(value: Any) -> None:
    """Prints JSON on one line."""
    write(msgspec.json.encode(value).decode())


def date(ms: int | None) -> str:
    """A time in ms since 1970, to the second, in UTC."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(age_s: float | None) -> str:
    """An age in one unit, as in "3 min"."""
    if age_s is None:
        return "-"
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"
