"""The controller's hand, without a controller: signs and publishes for one agent, and sees what it says."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.identity import RECORD_FILE, Identity, identity_folder
from contract.enrolment import CERTIFICATE_LIFE_MS, DAY_MS
from contract.signed import sign
from contract.steering import Command, Desired, Policy
from tests.fakes.client import IotClient, Message
from tests.fakes.node import AgentProcess

_numbers = itertools.count(1)


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


class Helm:
    """Steers an agent over a broker without TLS: of enrolment only the record is there."""

    def __init__(self, agent: AgentProcess, client: IotClient) -> None:
        self.agent, self.client = agent, client
        self.key = Ed25519PrivateKey.generate()
        self.enrol()

    def enrol(self, *, ahead_ms: int = 0) -> None:
        """Writes what enrolment leaves for the daemon, signed at a time that is `ahead_ms`."""
        folder = identity_folder(self.agent.state_dir)
        folder.mkdir(parents=True, exist_ok=True)
        issued = now_ms() + ahead_ms
        record = Identity(
            id=self.agent.node, role="node", fleet="home", url="https://127.0.0.1:1", broker_host="127.0.0.1",
            broker_port=self.agent.port, issued_ms=issued, expires_ms=issued + CERTIFICATE_LIFE_MS,
            signing_keys=[self.key.public_key().public_bytes_raw().hex()],
        )  # fmt: skip
        (folder / RECORD_FILE).write_bytes(msgspec.json.encode(record))

    def desired(self, rev: int, *, key: Ed25519PrivateKey | None = None, **fields: Any) -> bytes:
        """A signed desired state."""
        issued = now_ms()
        about: dict[str, Any] = {"node": self.agent.node, "issued": issued, "exp": issued + DAY_MS, **fields}
        return sign(Desired(rev=rev, **about), [key or self.key])

    def wish(self, rev: int, **fields: Any) -> None:
        """Publishes a desired state."""
        self.publish(self.desired(rev, **fields))

    def publish(self, document: bytes) -> None:
        """Publishes a document on the agent's topic, as it is."""
        self.client.publish(f"node/{self.agent.node}/desired", document, retain=True)

    def policy(self, group: str, rev: int, **settings: Any) -> None:
        """Publishes the policy of a group."""
        issued = now_ms()
        document = Policy(group=group, rev=rev, issued=issued, exp=issued + DAY_MS, settings=settings)
        self.client.publish(f"group/{group}/policy", sign(document, [self.key]), retain=True)

    def reported(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report for which `wanted` is true."""
        return dict(self._wait("reported", wanted).json)

    def over(self, rev: int, phase: str = "confirmed") -> dict[str, Any]:
        """The report that a wish is over."""
        return self.reported(lambda r: r["rev"] == rev and r["phase"] == phase)

    def alert(self, name: str, **data: Any) -> dict[str, Any]:
        """The first event of this name with this data."""
        return dict(self._event("alert", name, data)["data"])

    def audit(self, name: str) -> dict[str, Any]:
        """The first event of this name about what was changed on purpose."""
        return dict(self._event("audit", name, {})["data"])

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """All events of this name that were seen, each once."""
        seen = [m.json for m in self.client.seen if m.topic.endswith(f"/node/{self.agent.node}/evt/alert")]
        return list({event["eid"]: event["data"] for event in seen if event["name"] == name}.values())

    def command(self, op: str, *, ttl_ms: int = 60_000, command_id: str = "", **args: Any) -> str:
        """Publishes a command; returns its id."""
        name = command_id or f"cmd-{next(_numbers)}"
        self.client.publish(
            f"node/{self.agent.node}/cmd", msgspec.json.encode(Command(name, op, args, now_ms() + ttl_ms))
        )
        return name

    def answer(self, command_id: str) -> dict[str, Any]:
        """The answer to a command."""
        return dict(self._wait("evt/cmd", lambda event: event["data"]["id"] == command_id).json["data"])

    def answers(self, command_id: str) -> list[dict[str, Any]]:
        """All answers to a command that were seen, also the same again."""
        topic = f"/node/{self.agent.node}/evt/cmd"
        return [m.json for m in self.client.seen if m.topic.endswith(topic) and m.json["data"]["id"] == command_id]

    def _event(self, kind: str, name: str, data: dict[str, Any]) -> dict[str, Any]:
        found = self._wait(f"evt/{kind}", lambda e: e["name"] == name and data.items() <= e["data"].items())
        return dict(found.json)

    def _wait(self, topic: str, wanted: Callable[[dict[str, Any]], bool]) -> Message:
        end = f"/node/{self.agent.node}/{topic}"
        return self.client.wait(lambda m: m.topic.endswith(end) and wanted(json.loads(m.payload)))
