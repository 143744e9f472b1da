"""The units: how far they are shut in, and that what they leave out is said."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path("systemd")
MOST = {"shoal-agent": 1.5, "shoal-engine@": 0.5, "shoal-controller": 2.0, "shoal-broker": 2.0, "shoal-backup": 2.0}


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_a_unit_is_shut_in(name: str, most: float) -> None:
    """The measure is of systemd itself, from 0 (nothing is allowed) to 10."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed here")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"./{name}.service"],
        cwd=UNITS, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    assert float(found[1]) <= most, done.stdout


def test_every_service_is_measured() -> None:
    """A new unit comes with a limit."""
    assert {path.stem for path in UNITS.glob("*.service")} == set(MOST)


@pytest.mark.parametrize("name", MOST)
def test_what_is_not_set_is_said(name: str) -> None:
    """Each directive that another unit has stands in a unit too, or is named in a comment with its reason."""
    text = (UNITS / f"{name}.service").read_text("utf-8")
    wanted = {directive for other in MOST for directive in sandbox(UNITS / f"{other}.service")}
    if name == "shoal-backup":
        text += (UNITS / "shoal-controller.service").read_text("utf-8").partition("[Unit]")[0]
    assert [directive for directive in sorted(wanted) if f"{directive}=" not in text] == []


def sandbox(path: Path) -> set[str]:
    """The directives of a unit that shut it in."""
    beginnings = ("Private", "Protect", "Restrict", "SystemCall", "Capability", "Ambient", "NoNew", "Memory", "Lock",
                  "Keyring", "RemoveIPC", "Device", "Limit", "UMask", "IPAddress")  # fmt: skip
    found = re.findall(r"^([A-Za-z]+)=", path.read_text("utf-8"), re.MULTILINE)
    return {name for name in found if name.startswith(beginnings)}
