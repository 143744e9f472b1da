"""How commands print: JSON for programs, plain words for people."""

import json
import math
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def finite(value: float | None) -> float | None:
    """For options: a number that can be computed with."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"cannot use {value}: give a finite number")
    return value
