"""One controller, one agent that enrolled with it, one client: quotas over MQTT, and `fleet why` on real faults."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import update

from agent.control import call
from agent.errors import ControlError
from agent.identity import PEM_FILE, RECORD_FILE, load_identity
from contract.answers import Failure, Final
from contract.enrolment import DAY_MS
from contract.requests import Request
from contract.topics import NodeRequest
from fleet.authority import KeyPair
from fleet.broker_url import BrokerUrl
from fleet.database.store import open_database
from fleet.database.tables import certificates
from fleet.exchange import Answer, Exchange
from fleet.link import Link, open_link
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import until

NODE = "n1"
# In a mount namespace of its own: the state directory on a file system of 16 MiB.
ON_A_SMALL_DISK = (
    "unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
    'cp -a "$0" "$0.kept"; mount -t tmpfs -o size=16m tmpfs "$0"; cp -a "$0.kept/." "$0"; exec "$@"',
)  # fmt: skip


class Site:
    """A controller with a broker beside it, and a device."""

    def __init__(self, place: Path) -> None:
        self.controller = ControllerProcess(place)
        self.model = write_tiny_model(place / "tiny.gguf")
        self.device = EnrolledAgent(place / "device", self.model)
        self.state_dir = self.device.identity.parent
        self.broker = contextlib.ExitStack()

    def causes(self) -> list[str]:
        """What `fleet why` finds, the root first."""
        with self.controller.api() as api:
            found = api.get(f"/v1/nodes/{NODE}/why")
        return [cause["name"] for cause in found.json()["causes"]] if found.status_code == 200 else ["unknown"]

    def expect(self, *root: str) -> None:
        """Waits until the root is this, or without one until all is well."""
        until(lambda: self.causes()[:1] == list(root), f"root {root}")

    def wish(self, **wish: Any) -> None:
        """Wishes something of the node."""
        with self.controller.api() as api:
            assert api.post("/v1/wishes", json={"nodes": [NODE], **wish}).status_code == 200

    def kill_engines(self, number: signal.Signals) -> None:
        """Three die, each when it was ready."""
        before = 0
        for _ in range(3):
            before = until(partial(self._ready_engine, before), "ready engine")
            subprocess.run(["kill", f"-{number.value}", str(before)], check=True)

    def _ready_engine(self, other_than: int) -> int | None:
        with contextlib.suppress(ControlError, FileNotFoundError):
            engine = next(call(self.state_dir, {"op": "status"}, 10.0))["status"]["engine"]
            if engine["state"] == "ready" and engine["pid"] != other_than:
                return int(engine["pid"])
        return None

    @contextlib.contextmanager
    def certificate_expired(self) -> Iterator[None]:
        """The device was off for longer than a certificate is renewed after its end."""
        file = self.device.identity / PEM_FILE
        good, key = file.read_bytes(), load_pem_private_key(file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signed = datetime.now(UTC) - timedelta(days=40)
        old = self.controller.folder.authority("node").certify(NODE, key.public_key(), signed, timedelta(days=7))
        file.write_bytes(KeyPair(key, old).key_pem + KeyPair(key, old).certificate_pem)
        expires_ms = self._set_expiry(int((signed + timedelta(days=7)).timestamp() * 1000))
        yield
        file.write_bytes(good)
        self._set_expiry(expires_ms)

    def _set_expiry(self, expires_ms: int) -> int:
        database = open_database(self.controller.folder.database_url)
        with database.write() as connection:
            row = connection.execute(certificates.select().where(certificates.c.identity == NODE)).one()
            connection.execute(
                update(certificates).where(certificates.c.identity == NODE).values(expires_ms=expires_ms)
            )
        database.close()
        return int(row.expires_ms)

    def set_clock_wrong(self) -> None:
        """The device's certificate was signed when its clock will show in two years."""
        identity = load_identity(self.device.identity)
        assert identity is not None
        issued_ms = identity.issued_ms + 2 * 365 * DAY_MS
        moved = msgspec.structs.replace(identity, issued_ms=issued_ms, expires_ms=issued_ms + 7 * DAY_MS)
        (self.device.identity / RECORD_FILE).write_bytes(msgspec.json.encode(moved))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All of it, running."""
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.broker.enter_context(made.controller.broker_alone())
        made.controller.start("--no-embedded-broker")
        assert made.device.enroll(made.controller, made.controller.token(NODE)).returncode == 0
        made.device.start()
        made.expect()
        yield made
    finally:
        made.device.stop(signal.SIGKILL)
        made.broker.close()
        made.controller.stop()


def ask(link: Link, client: str, number: int) -> Final:
    """One request and its final."""
    request = Request(id=f"q{number}", prompt="a", max_tokens=2, ttl_ms=60_000)
    with contextlib.closing(Exchange(link, "home", NodeRequest(NODE, client), request)) as exchange:
        finals = [said.message for said in exchange if isinstance(said, Answer) and isinstance(said.message, Final)]
    return finals[-1]


def test_a_client_over_its_quota_is_told_when_to_come_again(site: Site, tmp_path: Path) -> None:
    """By the node itself, over MQTT, where no controller stands between; another client is answered meanwhile."""

    def enter(name: str, *quotas: str) -> Link:
        site.controller.token(name, *quotas, role="client")
        pair = site.controller.folder.authority("client").login(name, datetime.now(UTC), timedelta(days=1))
        (tmp_path / name).write_bytes(pair.key_pem + pair.certificate_pem)
        context = site.controller.tls()
        context.load_cert_chain(tmp_path / name)
        return open_link(BrokerUrl(HOST, site.controller.folder.port("client"), tls=True), context)

    with enter("kiosk", "--requests-per-minute", "1") as kiosk, enter("lamp") as lamp:
        numbers = iter(range(1000))

        def refused() -> Failure | None:
            final = ask(kiosk, "kiosk", next(numbers))
            return final.error if final.status == 429 and isinstance(final.error, Failure) else None

        failure = until(refused, "refusal")
        assert failure.code == "quota"
        assert 0 < (failure.retry_after_ms or 0) <= 60_000
        assert [ask(lamp, "lamp", number).status for number in range(3)] == [200, 200, 200]


@pytest.mark.timeout(600)
def test_why_names_the_root_of_real_faults(site: Site) -> None:
    """From the shallowest to the deepest, each on top of those before: what was wrong earlier does not hide it."""
    device = site.device
    site.wish(model="no-such")  # without a version: something that the node should have
    site.expect("wish_refused")
    site.kill_engines(signal.SIGSEGV)
    site.expect("crash_loop")
    device.stop(signal.SIGKILL)
    site.expect("lost")
    device.start()
    site.kill_engines(signal.SIGKILL)
    site.expect("no_memory")
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode == 0:
        device.stop()
        device.start(*ON_A_SMALL_DISK, str(site.state_dir))
        site.expect("disk_full")
    device.stop()
    site.expect("stopped")
    with site.certificate_expired():
        device.start()
        until(lambda: device.records("no connection to the broker; trying again with growing pauses"), "log line")
        site.expect("certificate_expired")
        device.stop()
    site.set_clock_wrong()
    device.start()
    site.expect("clock_wrong")
    said = site.controller.fleet("why", NODE)
    assert said.returncode == 3, said.stderr
    assert "its clock is wrong" in said.stdout
    site.broker.close()
    site.expect("broker_down")
