"""Two hosts that have nothing yet, and what reaches them: SSH, Ansible, a package of this working copy.

These tests need root, systemd-nspawn and debootstrap, and about 4 GB: `make test-hosts`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts.host import GATEWAY, Host, bridge, make_image, run
from tests.hosts.mirror import Proxy, mirror_url

HOSTS = Path(os.environ.get("SHOAL_TEST_HOSTS", ".shoal/hosts")).resolve()


@dataclass
class Ground:
    """The hosts, and how to reach them."""

    folder: Path
    controller: Host
    device: Host
    key: Path
    model: Path

    def ssh(
        self, host: Host, command: str, *, check: bool = True, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host, as root."""
        done = subprocess.run(
            ["ssh", "-i", str(self.key), *SSH_OPTIONS, f"root@{host.address}", command],
            capture_output=True, text=True, timeout=120, check=False, input=given,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def play(self, name: str, *options: str) -> str:
        """Runs a playbook of the collection; returns what it says."""
        done = subprocess.run(
            [str(HOSTS / "venv/bin/ansible-playbook"), f"shoal.fleet.{name}", "-i", str(self.inventory()), *options],
            capture_output=True, text=True, timeout=1800, check=False,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                 "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_PIPELINING": "True", "ANSIBLE_NOCOLOR": "1",
                 "ANSIBLE_LOCALHOST_WARNING": "False"},
        )  # fmt: skip
        self.log.write_text((self.log.read_text() if self.log.exists() else "") + done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    @property
    def package(self) -> Path:
        """What `make deb` built."""
        (package,) = Path("dist").glob("shoal_*-1_*.deb")
        return package

    @property
    def log(self) -> Path:
        """Everything that Ansible said."""
        return self.folder / "ansible.log"

    def inventory(self) -> Path:
        """The inventory."""
        package = self.package
        file = self.folder / "hosts.yml"
        file.write_text(INVENTORY.format(
            controller=self.controller.address, device=self.device.address, key=self.key, options=" ".join(SSH_OPTIONS),
            dist=package.parent.resolve(), version=package.name.split("_")[1], model=self.model,
        ))  # fmt: skip
        return file


FOLDER = "/var/lib/shoal-fleet/fleet"
SSH_OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
INVENTORY = """\
all:
  vars:
    ansible_user: root
    ansible_ssh_private_key_file: {key}
    ansible_ssh_common_args: {options}
    ansible_python_interpreter: /usr/bin/python3
    package_folder: {dist}
    package_version: {version}
    shoal_controller_url: https://{controller}:8443
  children:
    shoal_controllers:
      hosts:
        headquarters: {{ansible_host: {controller}}}
    shoal_agents:
      hosts:
        kitchen-1: {{ansible_host: {device}}}
      vars:
        agent_models: [{model}]
        agent_settings:
          engine: {{stall_s: 5, parallel: 2}}
"""


@pytest.fixture(scope="session")
def ground(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two booted hosts without anything of ours."""
    folder = tmp_path_factory.mktemp("hosts")
    image = make_image(HOSTS, mirror_url())
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    run(str(HOSTS / "venv/bin/ansible-galaxy"), "collection", "install", "-p", str(folder / "collections"), "./ansible")
    public = key.with_suffix(".pub").read_text()
    with bridge():
        proxy = Proxy(GATEWAY)
        hosts: list[Host] = []
        try:
            for number, name in ((2, "headquarters"), (3, "kitchen-1")):
                hosts.append(Host(name, number, image, folder, public, proxy.url))
            for host in hosts:
                host.boot()
            yield Ground(folder, hosts[0], hosts[1], key, model)
        finally:
            for host in hosts:
                host.remove()
            proxy.close()


@pytest.fixture(scope="session")
def asking(ground: Ground) -> list[str]:
    """The beginning of a command line that asks the device, as a client with an identity of this fleet."""
    folder = ground.folder / "tester"
    line = ground.ssh(ground.controller, f"fleet client create tester --json --dir {FOLDER}").stdout
    made = json.loads(line)
    run(
        program("shoal-agent"), "enroll", made["url"], "--token", made["token"], "--ca-sha256", made["ca_sha256"],
        "--folder", str(folder),
    )  # fmt: skip
    pem = str(folder / "identity.pem")
    broker = f"mqtts://{ground.controller.address}:8884"
    options = ["--broker", broker, "--ca", str(folder / "ca.pem"), "--cert", pem, "--key", pem]
    return [program("fleet"), *options, "ask", "kitchen-1", "--client", "tester"]


def program(name: str) -> str:
    """A command of this working copy."""
    return str(Path(sys.executable).with_name(name))
