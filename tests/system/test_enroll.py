"""From the line that the controller prints to a running node, and to its end."""

import contextlib
import signal
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import select

from agent.identity import PEM_FILE, load_identity
from contract.enrolment import DAY_MS, ENROL_PATH, RENEW_PATH, Enrol
from contract.presence import NodeState
from contract.signed import sign
from contract.steering import Desired, Reported
from contract.topics import NodeDesired, NodeReported, NodeStatus
from fleet.authority import KeyPair
from fleet.broker_url import BrokerUrl
from fleet.database.identities import add_certificate
from fleet.database.store import open_database
from fleet.database.tables import certificates
from fleet.errors import BrokerError
from fleet.link import Incoming, Link, open_link
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.signing_requests import request
from tests.fakes.waiting import until


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker, for all tests that do not kill it."""
    running = ControllerProcess(tmp_path_factory.mktemp("controller")).ready()
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path, model: Path) -> Iterator[EnrolledAgent]:
    """A device on which nothing is configured."""
    made = EnrolledAgent(tmp_path / "device", model)
    yield made
    made.stop(signal.SIGKILL)


def tls_of(device: EnrolledAgent, controller: ControllerProcess) -> ssl.SSLContext:
    """TLS with the device's certificate."""
    context = controller.tls()
    context.load_cert_chain(device.identity / PEM_FILE)
    return context


def wait_state(link: Link, node: str, *states: str) -> NodeState:
    """Waits for a status of a node."""

    def look() -> NodeState | None:
        incoming = link.next(1)
        if incoming is None or incoming.topic != NodeStatus(node).path("home"):
            return None
        state = msgspec.json.decode(incoming.payload, type=NodeState)
        return state if state.s in states else None

    return until(look, f"status {states} of {node}")


def test_one_line_makes_a_node_and_one_ends_it(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """Enrol, run, online; revoke: cut off at once, not let in again, not renewed."""
    done = device.enroll(controller, controller.token("kitchen-1"))
    assert done.returncode == 0, done.stderr
    assert (device.identity / PEM_FILE).stat().st_mode & 0o777 == 0o600
    with controller.watch() as watch:
        watch.subscribe({NodeStatus.filter("home"): 1})
        device.start()
        wait_state(watch, "kitchen-1", "online")
        revoked = controller.fleet("revoke", "kitchen-1")
        assert (revoked.returncode, revoked.stdout) == (0, "kitchen-1 is revoked.\n"), revoked.stderr
        wait_state(watch, "kitchen-1", "lost")
    until(lambda: device.records("no connection to the broker; trying again with growing pauses"), "log line")
    with pytest.raises(BrokerError):
        open_link(BrokerUrl(HOST, controller.folder.port("node"), tls=True), tls_of(device, controller))
    renewed = device.command("renew")
    assert renewed.returncode == 1
    assert renewed.stderr.startswith("cannot renew 'kitchen-1': it is revoked")
    assert len(controller.records("refused", path=RENEW_PATH, code="revoked")) == 1


def test_a_node_follows_what_the_fleets_key_signs(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """Enrolment gave it the key; what is wished comes over TLS from the one who may write it, and is reported."""
    assert device.enroll(controller, controller.token("steered-1")).returncode == 0
    context = controller.tls()
    context.load_cert_chain(*controller.folder.key_pair("mqtt"))
    url = BrokerUrl(HOST, controller.folder.port("node"), tls=True)
    issued = int(datetime.now(UTC).timestamp() * 1000)
    desired = Desired(node="steered-1", rev=1, issued=issued, exp=issued + DAY_MS, settings={"limits.queue": 3})
    with controller.watch() as watch, open_link(url, context) as steering:
        watch.subscribe({NodeReported("steered-1").path("home"): 1})
        steering.publish(
            NodeDesired("steered-1").path("home"), sign(desired, controller.folder.signing_keys()), retain=True
        )
        device.start()
        until(lambda: _is_confirmed(watch.next(1)), "report of revision 1")


def _is_confirmed(incoming: Incoming | None) -> bool:
    found = incoming and msgspec.json.decode(incoming.payload, type=Reported)
    return bool(found and (found.phase, found.settings["limits.queue"]) == ("confirmed", 3))


def test_a_certificate_renews_itself_with_the_same_key(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """The files are replaced, the key is not, and the new certificate logs in."""
    device.enroll(controller, controller.token("cellar-1"))
    before, old = load_identity(device.identity), (device.identity / PEM_FILE).read_text()
    renewed = device.command("renew")
    assert renewed.returncode == 0, renewed.stderr
    after, new = load_identity(device.identity), (device.identity / PEM_FILE).read_text()
    assert before is not None
    assert after is not None
    assert after.expires_ms > before.expires_ms
    end_of_key = "-----END PRIVATE KEY-----\n"
    assert new.partition(end_of_key)[0] == old.partition(end_of_key)[0]
    assert new != old
    open_link(BrokerUrl(HOST, controller.folder.port("node"), tls=True), tls_of(device, controller)).close()


def aged(controller: ControllerProcess, device: EnrolledAgent, name: str, days: int) -> None:
    """Gives a device a certificate for its key that expired some days ago."""
    file = device.identity / PEM_FILE
    key = load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = datetime.now(UTC) - timedelta(days=days + 7)
    old = controller.folder.authority("node").certify(name, key.public_key(), signed, timedelta(days=7))
    database = open_database(controller.folder.database_url)
    with database.write() as connection:
        add_certificate(connection, old.serial_number, name, 0, 0)
    database.close()
    file.write_bytes(KeyPair(key, old).key_pem + KeyPair(key, old).certificate_pem)


def test_an_expired_certificate_renews_itself_for_thirty_days(
    controller: ControllerProcess, device: EnrolledAgent
) -> None:
    """The broker does not take it any more; the controller does, for the same key, and then no longer."""
    device.enroll(controller, controller.token("shed-1"))
    aged(controller, device, "shed-1", days=31)
    refused = device.command("renew")
    assert refused.stderr.startswith("cannot renew 'shed-1': its certificate expired over 30 days ago"), refused.stderr
    aged(controller, device, "shed-1", days=29)
    with pytest.raises(BrokerError):
        open_link(BrokerUrl(HOST, controller.folder.port("node"), tls=True), tls_of(device, controller))
    renewed = device.command("renew")
    assert renewed.returncode == 0, renewed.stderr
    open_link(BrokerUrl(HOST, controller.folder.port("node"), tls=True), tls_of(device, controller)).close()


def test_a_client_gets_files_and_no_configuration(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """What it needs for any MQTT library is in the folder it names."""
    folder = device.config.parent / "c1"
    done = device.enroll(controller, controller.token("c1", role="client"), "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"mqtts://{HOST}:{controller.folder.port('client')}" in done.stdout
    assert not device.config.exists()
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / PEM_FILE)
    open_link(BrokerUrl(HOST, controller.folder.port("client"), tls=True), context).close()


def test_another_root_gets_no_token(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """The token and the request are only sent to who has the pinned root."""
    token = controller.token("hall-1")
    done = device.command("enroll", controller.folder.url, "--token", token, "--ca-sha256", "0" * 64)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot trust {controller.folder.url}")
    assert not device.identity.exists()
    assert device.enroll(controller, token).returncode == 0  # it was not used up


def test_a_configuration_that_is_there_is_not_touched(controller: ControllerProcess, device: EnrolledAgent) -> None:
    """It says what belongs into it, and a later enrolment finds that it is right."""
    device.config.write_text("# mine\n")
    done = device.enroll(controller, controller.token("attic-1"))
    assert done.returncode == 1
    assert device.config.read_text() == "# mine\n"
    device.config.write_text(done.stdout.partition("It must say:\n\n")[2])
    again = device.enroll(controller, controller.token("attic-1"))
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid"),
        (b"\xff\xfe", "invalid"),
        (b'{"token": 1, "csr": ""}', "invalid"),
        (b'{"token": "' + b"x" * 20_000, "invalid"),
        (b'{"token": "n1:wrong", "csr": ""}', "token_unknown"),
    ],
)
def test_what_is_no_enrolment_is_one_refusal(controller: ControllerProcess, body: bytes, code: str) -> None:
    """One line in the log, one document in the answer."""
    before = len(controller.records("refused", code=code))
    answer = httpx.post(controller.folder.url + ENROL_PATH, content=body, verify=controller.tls())
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    assert len(controller.records("refused", code=code)) == before + 1


def test_renewal_needs_a_certificate(controller: ControllerProcess) -> None:
    """Without one in TLS there is nobody to renew."""
    answer = httpx.post(controller.folder.url + RENEW_PATH, verify=controller.tls())
    assert answer.json()["error"]["code"] == "no_certificate"


def test_kill_at_any_moment_leaves_no_token_that_is_good_twice(tmp_path: Path) -> None:
    """The controller is killed while ten ask with one token: it gave one certificate at most, and gives no second."""
    controller = ControllerProcess(tmp_path)
    url = controller.folder.url + ENROL_PATH
    answers: list[int] = []

    def ask(token: str) -> None:
        body = msgspec.json.encode(Enrol(token, request("n1")))
        with contextlib.suppress(httpx.TransportError):  # killed before it answered
            answers.append(httpx.post(url, content=body, verify=context, timeout=30).status_code)

    context = controller.tls()
    for round_number in range(4):
        answers.clear()
        controller.start()
        token = controller.token("n1")
        before = num_certificates(controller)
        threads = [threading.Thread(target=ask, args=(token,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        if round_number:
            wait_certificates(controller, before + 1)
        controller.stop(signal.SIGKILL)
        for thread in threads:
            thread.join()
        controller.start()
        ask(token)
        ask(token)
        assert num_certificates(controller) == before + 1
        assert answers.count(200) <= 1
        controller.stop()


def wait_certificates(controller: ControllerProcess, number: int) -> None:
    """Waits for the moment at which a certificate is in the database."""
    until(lambda: num_certificates(controller) == number, "certificate")


def num_certificates(controller: ControllerProcess) -> int:
    """How many certificates were ever given."""
    database = open_database(controller.folder.database_url)
    with database.read() as connection:
        number = len(connection.execute(select(certificates)).all())
    database.close()
    return number


def test_a_line_that_was_not_pasted_whole_is_refused(device: EnrolledAgent) -> None:
    """Each part says what it should be, before anything is sent."""
    for url, token, digest, said in (
        ("http://ctl", "n1:x", "0" * 64, "cannot use 'http://ctl'"),
        ("https://ctl", "x", "0" * 64, "cannot use this token"),
        ("https://ctl", "n1:x", "0" * 63, "cannot use --ca-sha256"),
    ):
        done = device.command("enroll", url, "--token", token, "--ca-sha256", digest)
        assert done.returncode == 1
        assert done.stderr.startswith(said), done.stderr
    assert list(device.config.parent.iterdir()) == []
