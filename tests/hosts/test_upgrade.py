"""The software itself is replaced while it answers, and comes back where the new one is not well."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.conftest import Ground
from tests.hosts.host import run
from tests.hosts.package import repack

NUM_PROMPTS = 40


@pytest.fixture(scope="module")
def packages(ground: Ground) -> Path:
    """A folder with the installed version, a next one, and one whose agent ends at once."""
    folder = ground.folder / "packages"
    folder.mkdir()
    package = ground.package
    shutil.copy(package, folder)
    repack(package, "0.1.0-2", folder)
    repack(package, "0.1.0-3", folder, break_agent)
    return folder


def break_agent(root: Path) -> None:
    """As a fault that only shows on devices."""
    (module,) = root.glob("opt/shoal/lib/python*/site-packages/agent/__main__.py")
    module.write_text("raise SystemExit('cannot start')\n")
    for compiled in module.parent.glob("__pycache__/__main__.*"):
        compiled.unlink()


def installed(ground: Ground) -> str:
    """The device's version."""
    return ground.ssh(ground.device, "dpkg-query --show --showformat '${Version}' shoal").stdout


def test_an_upgrade_under_load_loses_no_prompt(ground: Ground, asking: list[str], packages: Path) -> None:
    """Prompts that come before, during and after it are all answered; one at a time, as one identity may connect."""
    command = [*asking, "Name a colour.", "--max-tokens", "60", "--ttl", "600", "--json"]
    with ThreadPoolExecutor(1) as one:
        asked = [one.submit(run, *command) for _ in range(NUM_PROMPTS)]
        ground.play("upgrade", "-e", f"package_folder={packages}", "-e", "package_version=0.1.0-2")
        assert [json.loads(each.result())["status"] for each in asked] == [200] * NUM_PROMPTS
    assert installed(ground) == "0.1.0-2"


def test_a_bad_version_is_taken_back(ground: Ground, asking: list[str], packages: Path) -> None:
    """The play fails, and the device answers with the version that it had."""
    options = ["-e", f"package_folder={packages}", "-e", "package_version=0.1.0-3", "-e", "shoal_upgrade_retries=2"]
    with pytest.raises(AssertionError, match="is back on the version that it had"):
        ground.play("upgrade", "--limit", "shoal_agents", *options)
    assert installed(ground) == "0.1.0-2"
    done = subprocess.run([*asking, "Name a colour.", "--max-tokens", "8"], timeout=300, check=False)
    assert done.returncode == 0
