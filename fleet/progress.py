"""How far a node is with what is wished of it. Pure."""

from contract.steering import Reported
from fleet.api.steering import Progress

FAILED = ("failed", "refused", "rolled_back")
AT_END = ("idle", "confirmed")


def progress_of(node: str, rev: int, reported: Reported | None, *, is_online: bool) -> Progress:
    """From what it reported last. A later wish that it has taken in stands in the place of this one."""
    if reported is None or reported.rev < rev:
        return Progress(node=node, rev=rev, state="working" if is_online else "waiting")
    if reported.rev > rev or reported.phase in AT_END:
        return Progress(node=node, rev=rev, state="done", phase=reported.phase, progress=1.0)
    if reported.phase in FAILED:
        return Progress(node=node, rev=rev, state="failed", phase=reported.phase, error=reported.error)
    state = "working" if is_online else "waiting"
    return Progress(node=node, rev=rev, state=state, phase=reported.phase, progress=reported.progress)  # type: ignore[arg-type]  # mypy widens it
