"""A rollout's nodes in numbers. Pure."""

from collections import Counter

from fleet.rollout.state import Node, Outcome, State


def counts(state: State, num_waiting: int) -> dict[str, int]:
    """How many nodes wait for the release, work on it or on their way back, are back, or ended how."""
    return {"waiting": num_waiting, **Counter(map(_place, state.nodes.values()))}


def _place(node: Node) -> str:
    if node.outcome is None:
        return "working"
    return "back" if node.is_back and node.outcome is Outcome.CONFIRMED else node.outcome.value
