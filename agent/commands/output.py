"""How commands print: JSON for programs, plain words for people."""

import json
import math
import sys
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def progress(text: str) -> None:
    """Shows on a terminal how far long work is, in one line that changes; an empty text ends it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def finite(value: float | None) -> float | None:
    """For options: a number that can be computed with."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"cannot use {value}: give a finite number")
    return value
