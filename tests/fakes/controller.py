"""A real controller in a process of its own, with a real mosquitto as its child."""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from fleet.broker_url import BrokerUrl
from fleet.folder import ROLES, BrokerSection, DatabaseSection, Folder, Https, Settings, open_folder
from fleet.link import Link, open_link
from fleet.mosquitto import CONFIG_FILE
from fleet.web.server import NO_CHECK_TIME
from tests.fakes.mosquitto import find_mosquitto, free_port
from tests.fakes.waiting import until

HOST = "127.0.0.1"


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def settings(database: str = "") -> Settings:
    """Settings with free ports."""
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    https, nodes, clients = ports
    return Settings(
        fleet="home",
        https=Https(host=HOST, port=https),
        broker=BrokerSection(host=HOST, nodes_port=nodes, clients_port=clients),
        database=DatabaseSection(url=database),
    )


class ControllerProcess:
    """`fleet serve`, made by `fleet init` in a folder below `place`."""

    def __init__(self, place: Path, database: str = "") -> None:
        self.path = place / "ctl"
        self.log = place / "serve.log"
        chosen = settings(database)
        ports = {"https": chosen.https.port, "nodes": chosen.broker.nodes_port, "clients": chosen.broker.clients_port}
        words = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
        made = self.fleet("init", str(self.path), "--fleet", "home", "--host", HOST, "--database", database, *words)
        assert made.returncode == 0, made.stderr
        self.folder: Folder = open_folder(self.path)
        # Somebody who sees everything, as no identity of a fleet does.
        with (self.folder.broker / "node.acl").open("a") as file:
            file.write("\nuser _watcher\ntopic read #\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process
        return self._process.pid

    def fleet(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs the `fleet` command for this folder."""
        return subprocess.run(
            [sys.executable, "-m", "fleet", *words], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "SHOAL_FLEET_DIR": str(self.path)},
        )  # fmt: skip

    def start(self, *words: str) -> "ControllerProcess":
        """Starts it with its broker (other words replace that option), and waits until it listens."""
        command = [sys.executable, "-m", "fleet", "serve", str(self.path), *(words or ["--embedded-broker"])]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log)
        until(self.health, "answering controller")
        return self

    def ready(self) -> "ControllerProcess":
        """Starts it, and waits until it has its broker."""
        self.start()
        until(lambda: (self.health() or {}).get("healthy"), "healthy controller")
        return self

    def health(self) -> dict[str, Any] | None:
        """What `/healthz` says; None while nobody listens."""
        try:
            return dict(httpx.get(f"{self.folder.url}/healthz", verify=self.tls(), timeout=20).json())
        except httpx.TransportError:
            return None

    def tls(self) -> ssl.SSLContext:
        """TLS that trusts this controller's root alone, whatever the date."""
        context = ssl.create_default_context(cadata=self.folder.authority("root").certificate_pem.decode())
        context.verify_flags |= NO_CHECK_TIME
        return context

    @contextmanager
    def broker_alone(self) -> Iterator[None]:
        """The broker with the generated configuration, while no controller runs."""
        command = [find_mosquitto(), "-c", str(self.folder.broker / CONFIG_FILE)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: all(listens(self.folder.port(role)) for role in ROLES), "broker")
            yield
        finally:
            process.terminate()
            process.wait(20)

    def token(self, name: str, *words: str, role: str = "node") -> str:
        """A token for `name`."""
        command = ["token", "create", "--node", name] if role == "node" else ["client", "create", name]
        line = self.fleet(*command, *words)
        assert line.returncode == 0, line.stderr
        return line.stdout.split("--token ")[1].split()[0]

    def api(self, token: str | None = None) -> httpx.Client:
        """A client of the HTTP API, with a token; without, with that of the folder's admin."""
        headers = {"Authorization": f"Bearer {self.folder.operator_token.read_text() if token is None else token}"}
        return httpx.Client(base_url=self.folder.url, verify=self.tls(), timeout=60, headers=headers)

    def operator(self, role: str) -> str:
        """The token of a new operator, named after the role."""
        made = self.api().post("/v1/operators", json={"name": f"{role}-{secrets.token_hex(4)}", "role": role})
        return str(made.json()["token"])

    def watch(self) -> Link:
        """A connection to the broker that may read everything."""
        pair = self.folder.authority("node").login("_watcher", datetime.now(UTC), timedelta(days=1))
        file = self.path / "watcher.pem"
        file.write_bytes(pair.key_pem + pair.certificate_pem)
        context = self.tls()
        context.load_cert_chain(file)
        return open_link(BrokerUrl(HOST, self.folder.port("node"), tls=True), context)

    def records(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of an event, with these fields."""
        lines = [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]
        return [r for r in lines if r["event"] == event and all(r.get(k) == v for k, v in fields.items())]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; returns its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._process = None
        return code
