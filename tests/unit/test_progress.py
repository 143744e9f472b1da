"""How far a node is with a wish."""

from typing import Any

import pytest

from contract.steering import Reported
from fleet.progress import progress_of


@pytest.mark.parametrize(
    ("reported", "is_online", "state"),
    [
        (None, True, "working"),
        (None, False, "waiting"),
        ({"rev": 4, "phase": "confirmed"}, True, "working"),
        ({"rev": 4, "phase": "failed"}, False, "waiting"),
        ({"rev": 5, "phase": "switching"}, True, "working"),
        ({"rev": 5, "phase": "switching"}, False, "waiting"),
        ({"rev": 5, "phase": "confirmed"}, False, "done"),
        ({"rev": 5, "phase": "refused"}, True, "failed"),
        ({"rev": 5, "phase": "rolled_back"}, False, "failed"),
        ({"rev": 6, "phase": "checking"}, True, "done"),
        ({"rev": 6, "phase": "failed"}, True, "done"),
    ],
)
def test_what_a_node_reported_says_how_far_it_is(reported: dict[str, Any] | None, is_online: bool, state: str) -> None:
    """An older report says nothing of this wish, and a later wish has taken its place."""
    said = None if reported is None else Reported(**reported)
    assert progress_of("n1", 5, said, is_online=is_online).state == state


def test_phase_error_and_progress_are_shown() -> None:
    """As the node reported them."""
    working = progress_of("n1", 5, Reported(rev=5, phase="fetching", progress=0.25), is_online=True)
    assert (working.phase, working.progress, working.error) == ("fetching", 0.25, None)
    failed = progress_of("n1", 5, Reported(rev=5, phase="failed", error="cannot …"), is_online=True)
    assert (failed.phase, failed.error) == ("failed", "cannot …")
