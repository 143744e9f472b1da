"""The modules and the inventory, against the controller that the site has by now."""

import json
import os
import subprocess

import pytest

from tests.hosts.conftest import FOLDER, HOSTS, Ground


@pytest.fixture(scope="module")
def access(ground: Ground) -> dict[str, str]:
    """How an admin reaches the controller from here."""
    root = ground.folder / "root.pem"
    root.write_text(ground.ssh(ground.controller, f"cat {FOLDER}/authority/root.crt").stdout)
    token = ground.ssh(ground.controller, f"cat {FOLDER}/controller/operator.token").stdout.strip()
    return {"url": f"https://{ground.controller.address}:8443", "token": token, "ca_path": str(root)}


def module(ground: Ground, name: str, *options: str, **arguments: object) -> dict[str, object]:
    """What a module returns, run on this machine."""
    command = [str(HOSTS / "venv/bin/ansible"), "localhost", "-m", f"shoal.fleet.{name}", "-a", json.dumps(arguments)]
    done = subprocess.run(
        [*command, *options],
        capture_output=True, text=True, timeout=1900, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ground.folder / "collections"), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_LOAD_CALLBACK_PLUGINS": "True", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, object] = json.loads(done.stdout.partition("=>")[2])
    return result


def test_nodes_are_found_by_query(ground: Ground, access: dict[str, str]) -> None:
    """Those that fit, with what the controller knows of them."""
    found = module(ground, "shoal_node_info", **access, query="online and model~smol")
    nodes = found["nodes"]
    assert isinstance(nodes, list)
    assert [node["node"] for node in nodes] == ["kitchen-1"]
    assert module(ground, "shoal_node_info", **access, query="site=nowhere")["nodes"] == []


def test_the_controller_is_an_inventory(ground: Ground, access: dict[str, str]) -> None:
    """Each node is a host, in groups after its state."""
    source = ground.folder / "fleet.shoal.yml"
    source.write_text(json.dumps({"plugin": "shoal.fleet.nodes", "url": access["url"], "ca_path": access["ca_path"]}))
    done = subprocess.run(
        [str(HOSTS / "venv/bin/ansible-inventory"), "-i", str(source), "--list"],
        capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ground.folder / "collections"),
             "ANSIBLE_INVENTORY_ENABLED": "shoal.fleet.nodes", "SHOAL_FLEET_TOKEN": access["token"]},
    )  # fmt: skip
    listed = json.loads(done.stdout)
    assert listed["shoal_agents"]["hosts"] == listed["shoal_state_online"]["hosts"] == ["kitchen-1"]
    # What a controller says is text to Ansible, and never a template.
    assert listed["_meta"]["hostvars"]["kitchen-1"]["shoal"]["state"] == {"__ansible_unsafe": "online"}


def test_a_release_is_published_once(ground: Ground, access: dict[str, str]) -> None:
    """A dry run does nothing; then it is published; then there is nothing to do; then it is taken back."""
    release = {**access, "name": "hosts-model", "version": "1", "src": str(ground.model)}
    assert module(ground, "shoal_release", "--check", **release)["changed"] is True
    assert module(ground, "shoal_release", **release)["changed"] is True
    assert module(ground, "shoal_release", **release)["changed"] is False
    yanked = {**access, "name": "hosts-model", "version": "1", "state": "yanked", "reason": "a test"}
    assert module(ground, "shoal_release", **yanked)["changed"] is True
    assert module(ground, "shoal_release", **yanked)["changed"] is False


def test_a_rollout_is_forecast(ground: Ground, access: dict[str, str]) -> None:
    """A dry run shows who would get the release in which wave."""
    release = {**access, "name": "hosts-model", "version": "2", "src": str(ground.model)}
    assert module(ground, "shoal_release", **release)["changed"] is True
    wanted = {**access, "release": "hosts-model@2", "plan": {"waves": ["100%"]}}
    forecast = module(ground, "shoal_rollout", "--check", "--diff", **wanted)
    assert forecast["changed"] is True
