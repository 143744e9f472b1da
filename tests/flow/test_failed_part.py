"""A part of the controller that fails takes the controller with it, and says so."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fleet import controller
from fleet.beginning import begin
from fleet.errors import ControllerError
from fleet.presence import Attendance
from tests.fakes.controller import settings

CANARY = "the-canary-sings-at-dawn"


def test_a_controller_that_cannot_hear_nodes_any_more_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would serve for ever what it heard before. The log has the place, and the command a sentence."""

    async def fail(_self: Attendance) -> None:
        raise ValueError(CANARY)

    folder = begin(tmp_path / "ctl", settings())
    assert folder is not None
    monkeypatch.setattr(Attendance, "begin", fail)
    with capture_logs() as records, pytest.raises(ControllerError, match="a fault of the controller in its link"):
        asyncio.run(asyncio.wait_for(controller.serve(folder, embedded_broker=False), 60))
    (failed,) = [one for one in records if one["log_level"] == "critical"]
    assert (failed["part"], failed["error"]) == ("link", "ValueError")
    assert " < fleet/controller.py:" in failed["where"]
    assert CANARY not in str(records)
    assert records[-1]["event"] == "stopped"
