"""The cloud from end to end: a node's request goes out through a real controller, and everything that left is seen."""

import json
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.x509 import load_pem_x509_certificate

from contract import topics
from contract.answers import Delta, Final
from contract.enrolment import CLOUD_PATH
from contract.mqtt5 import Properties
from contract.requests import Handed, Request
from fleet.authority import KeyPair
from fleet.broker_url import BrokerUrl
from fleet.database.identities import add_certificate, add_identity, revoke_certificates
from fleet.database.store import open_database
from fleet.link import Link, open_link
from tests.fakes.controller import HOST, ControllerProcess
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.provider import KEY, Provider
from tests.fakes.waiting import until

CLOUD = """
[cloud.client]
tokens_per_day = 100_000
[[cloud.upstreams]]
name = "hosted"
url = "{url}"
model = "large"
key_file = "controller/hosted.key"
input_price = 1.0
output_price = 2.0
"""
REQUEST = Request(id="r1", prompt="hello there", privacy="any", max_tokens=20, handed=Handed("app", "queue"))
EARLY = datetime(2026, 1, 1, tzinfo=UTC)


class House:
    """A controller with a provider, and certificates for its nodes."""

    def __init__(self, place: Path) -> None:
        self.provider = Provider()
        self.controller = ControllerProcess(place)
        with (self.controller.path / "fleet.toml").open("a") as file:
            file.write(CLOUD.format(url=self.provider.url))
        key = self.controller.path / "controller" / "hosted.key"
        key.write_text(KEY)
        key.chmod(0o600)
        self.controller.ready()

    def identity(self, name: str, *, role: Any = "node", days: int = 365, valid: bool = True) -> ssl.SSLContext:
        """TLS as this node; not `valid`: its certificate is revoked."""
        pair = self.controller.folder.authority(role).login(name, EARLY, timedelta(days=days))
        self._record(name, role, pair, valid=valid)
        file = self.controller.path / f"{name}.pem"
        file.write_bytes(pair.key_pem + pair.certificate_pem)
        context = self.controller.tls()
        context.load_cert_chain(file)
        return context

    def _record(self, name: str, role: Any, pair: KeyPair, *, valid: bool) -> None:
        database = open_database(self.controller.folder.database_url)
        with database.write() as connection:
            add_identity(connection, name, role, 1)
            serial = load_pem_x509_certificate(pair.certificate_pem).serial_number
            add_certificate(connection, serial, name, 1, 2**45)
            if not valid:
                revoke_certificates(connection, name, 2)
        database.close()

    def post(self, tls: ssl.SSLContext, request: Request = REQUEST) -> httpx.Response:
        """A request for the cloud over HTTPS."""
        with httpx.Client(base_url=self.controller.folder.url, verify=tls, timeout=30, trust_env=False) as client:
            return client.post(CLOUD_PATH, content=msgspec.json.encode(request))

    def audit(self) -> list[dict[str, Any]]:
        """What the command shows, the oldest first."""
        shown = self.controller.fleet("audit", "--cloud", "--json")
        assert shown.returncode == 0, shown.stderr
        return list(json.loads(shown.stdout))[::-1]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A controller for all tests here."""
    running = House(tmp_path_factory.mktemp("house"))
    yield running
    running.controller.stop()
    running.provider.stop()


def test_a_node_asks_over_https_with_its_certificate(house: House) -> None:
    """Whole, and as server-sent events; each time it stands in the audit, with the digest of the text."""
    tls = house.identity("n1")
    final = msgspec.json.decode(house.post(tls).content, type=Final)
    assert (final.status, final.text, final.served_by) == (200, "echo: hello there", "cloud:hosted")
    streamed = house.post(tls, msgspec.structs.replace(REQUEST, id="r2", stream=True))
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    texts = [msgspec.json.decode(event, type=Delta).text for event in events[:-1]]
    assert "".join(texts) == msgspec.json.decode(events[-1], type=Final).text == "echo: hello there"
    left = house.audit()
    assert [(one["node"], one["client"], one["request"], one["outcome"]) for one in left] == [
        ("n1", "app", "r1", "answered"), ("n1", "app", "r2", "answered"),
    ]  # fmt: skip
    assert {one["sha256"] for one in left} == {REQUEST.texts_sha256}
    assert sum(one["bytes"] for one in left) == len(house.provider.raw)


def test_nobody_else_gets_in(house: House) -> None:
    """Without a certificate, with a client's, with one that is revoked or has expired; nothing leaves."""
    before = house.provider.num_requests
    refused = {
        "no_certificate": house.post(house.controller.tls()),
        "no_node": house.post(house.identity("c1", role="client")),
        "revoked": house.post(house.identity("n2", valid=False)),
        "expired": house.post(house.identity("n3", days=1)),
    }
    assert {one.status_code for one in refused.values()} == {403}
    assert [one.json()["error"]["code"] for one in refused.values()] == list(refused)
    assert house.provider.num_requests == before


def test_a_local_prompt_that_came_here_goes_no_further(house: House) -> None:
    """Nor one that no node handed on."""
    tls, before = house.identity("n5"), house.provider.num_requests
    for privacy in (None, "local", "site"):
        answer = house.post(tls, msgspec.structs.replace(REQUEST, privacy=privacy))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "privacy")
    assert house.post(tls, msgspec.structs.replace(REQUEST, handed=None)).status_code == 400
    assert house.provider.num_requests == before


def test_a_node_asks_over_mqtt_and_twice_is_once(house: House) -> None:
    """In the contract's messages; the same request again is answered again, and asked once."""
    tls, before = house.identity("n6"), house.provider.num_requests
    link = open_link(BrokerUrl(HOST, house.controller.folder.port("node"), tls=True), tls)
    kinds = (topics.CloudDelta, topics.CloudFinal)
    link.subscribe({kind.filter("home", node="n6"): kind.QOS for kind in kinds})
    request = msgspec.structs.replace(REQUEST, id="m1", stream=True)
    deltas, final = _ask(link, request)
    assert (final.status, final.text, final.served_by) == (200, "echo: hello there", "cloud:hosted")
    assert "".join(delta.text for delta in deltas) == final.text
    assert _ask(link, request) == ([], final)
    assert house.provider.num_requests == before + 1
    assert house.audit()[-1]["node"] == "n6"
    link.close()


def _ask(link: Link, request: Request) -> tuple[list[Delta], Final]:
    link.publish(topics.CloudRequest("n6").path("home"), msgspec.json.encode(request), properties=Properties())
    deltas = list[Delta]()
    while True:
        incoming = link.next(30)
        assert incoming is not None
        if incoming.topic.endswith("/final"):
            return deltas, msgspec.json.decode(incoming.payload, type=Final)
        deltas.append(msgspec.json.decode(incoming.payload, type=Delta))


def test_a_real_node_hands_on_what_it_has_no_model_for(house: House, model: Path, tmp_path: Path) -> None:
    """From an application through the controller to the node, from it to the provider, and back; a local one stays."""
    device = EnrolledAgent(tmp_path / "device", model)
    assert device.enroll(house.controller, house.controller.token("kitchen")).returncode == 0
    device.start()

    def ask(privacy: str) -> httpx.Response:
        body = {
            "model": "node:kitchen/big",
            "privacy": privacy,
            "messages": [{"role": "user", "content": "call a@b.de"}],
        }
        with house.controller.api() as api:
            return api.post("/v1/chat/completions", json=body)

    try:
        until(lambda: ask("redact").status_code == 200, "the node")
        before = house.provider.num_requests
        answer = ask("redact").json()
        assert answer["choices"][0]["message"]["content"] == "echo: call [MAIL_1]"
        assert (answer["shoal"]["node"], answer["shoal"]["served_by"]) == ("kitchen", "cloud:hosted")
        assert ask("local").status_code == 404
        assert house.provider.num_requests == before + 1
        left = house.audit()[-1]
        assert (left["node"], left["client"], left["why"], left["privacy"]) == (
            "kitchen", "gateway", "capability", "redact",
        )  # fmt: skip
    finally:
        device.stop(signal.SIGKILL)
    assert b"a@b.de" not in house.provider.raw
