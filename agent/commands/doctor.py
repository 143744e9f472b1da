"""`shoal-agent doctor`."""

import typer

from agent.checkup import Patient, examine
from agent.commands.output import Json, print_json
from agent.config import load_config


def doctor(as_json: Json = False) -> None:
    """Look at twenty things that keep a device from answering, and say what to do about each that does."""
    outcomes = examine(Patient(load_config()))
    if as_json:
        print_json(outcomes)
    else:
        for outcome in outcomes:
            print(f"{'ok  ' if outcome['ok'] else 'FAIL'} {outcome['check']}: {outcome['found']}")
            if outcome["next"]:
                print(f"     next: {outcome['next']}")
    if not all(outcome["ok"] for outcome in outcomes):
        raise typer.Exit(1)
