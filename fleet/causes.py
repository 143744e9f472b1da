"""Why a node is not well: `fleet why`. Pure: evidence in, causes out, the deepest first.

The first rule that holds is the root, as far as the evidence goes.
"""

from msgspec import Struct

from fleet.evidence import Evidence
from fleet.rules import LAST_RESORT, RULES


class Cause(Struct, frozen=True):
    """One reason. `evidence` shows it, `advice` says what to do."""

    name: str
    summary: str
    evidence: tuple[str, ...]
    advice: str


def causes(evidence: Evidence) -> list[Cause]:
    """What is wrong with a node, the root first; nothing when it is well."""
    found = []
    for rule in RULES:
        if lines := tuple(rule.lines(evidence)):
            found.append(Cause(rule.name, rule.summary, lines, rule.advice.format(node=evidence.node)))
            if rule.hides:
                break
    return [cause for place, cause in enumerate(found) if place == 0 or cause.name not in LAST_RESORT]
