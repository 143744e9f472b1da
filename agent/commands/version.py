"""`shoal-agent version`."""

from agent.card import versions
from agent.commands.output import Json, print_json


def version(as_json: Json = False) -> None:
    """Show versions of the agent and of what it runs on."""
    found = versions()
    if as_json:
        print_json(found)
    else:
        for name, number in found.items():
            print(f"{name} {number}")
