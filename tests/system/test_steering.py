"""An agent that follows signed wishes, on a real broker."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.enrolment import DAY_MS
from contract.settings import SETTINGS
from tests.fakes.helm import Helm, now_ms
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import Lab

OTHER = "tiny"  # a second model, beside the configured one, `smollm2@1`


@pytest.fixture
def tiny_lab(tmp_path: Path, broker: Mosquitto) -> Iterator[Lab]:
    """Agents of a tiny model."""
    running = Lab(tmp_path, broker, write_tiny_model(tmp_path / "first.gguf"))
    yield running
    running.close()


@pytest.fixture
def helm(tiny_lab: Lab) -> Helm:
    """An agent that is online and enrolled, and the hand that steers it."""
    agent = tiny_lab.agent()
    helm = Helm(agent, tiny_lab.client(agent))
    (agent.state_dir / "models").mkdir()
    write_tiny_model(agent.state_dir / "models" / f"{OTHER}.gguf", seed=2)
    agent.start().wait_online(helm.client)
    return helm


def label_of(helm: Helm, name: str) -> str:
    """`name@version` of one of its models."""
    return next(str(m["model"]) for m in helm.agent.status()["models"] if str(m["model"]).startswith(name))


def test_settings_are_in_force_while_it_runs(helm: Helm) -> None:
    """A wish is confirmed, counts for the next request, is told, and is in the status."""
    helm.wish(1, settings={"limits.ttl_ms": 1, "log.level": "warning", "telemetry.level": "off"})
    report = helm.over(1)
    assert report["settings"]["limits.ttl_ms"] == 1
    assert report["settings"].keys() == SETTINGS.keys()
    assert helm.audit("settings_changed") == {
        "rev": 1, "changed": {"limits.ttl_ms": 1, "log.level": "warning", "telemetry.level": "off"},
    }  # fmt: skip
    helm.client.ask({"id": "late", "prompt": "a", "max_tokens": 64})
    assert helm.client.final("late")["status"] == 408
    shown = helm.agent.command("status").stdout
    assert "desired    revision 1 is confirmed\n" in shown
    assert "limits.ttl_ms = 1," in shown
    helm.wish(2)  # what is no longer wished for goes back to the configuration
    assert helm.over(2)["settings"]["limits.ttl_ms"] == 60_000
    helm.client.ask({"id": "fine", "prompt": "a", "max_tokens": 2})
    assert helm.client.final("fine")["status"] == 200


def test_queue_limits_are_in_force(helm: Helm) -> None:
    """With room for one, of many requests some are refused at once; before, none was."""
    helm.wish(1, settings={"limits.queue": 1})
    helm.over(1)
    for number in range(60):
        helm.client.ask({"id": f"q{number}", "prompt": "a", "max_tokens": 100})
    statuses = {helm.client.final(f"q{number}")["status"] for number in range(60)}
    assert statuses == {200, 429}


def test_a_policy_of_a_group_counts_until_its_own_wish_wins(helm: Helm) -> None:
    """The groups stand in the desired state; their policies are fetched then, and followed when they change."""
    helm.policy("stores", 1, **{"limits.queue": 7, "limits.client_queue": 5})
    helm.wish(1, groups=["stores"], settings={"limits.client_queue": 6})
    report = helm.over(1)
    assert (report["settings"]["limits.queue"], report["settings"]["limits.client_queue"]) == (7, 6)
    assert report["policies"] == {"stores": 1}
    helm.policy("stores", 2, **{"limits.queue": 8})
    helm.reported(lambda r: r["phase"] == "confirmed" and r["settings"]["limits.queue"] == 8)
    helm.wish(2)
    assert helm.over(2)["policies"] == {}


def test_another_model_becomes_the_default_and_stays_it(helm: Helm) -> None:
    """Requests that name none are answered by it, also after a kill -9."""
    other = label_of(helm, OTHER)
    helm.wish(1, model=other)
    assert helm.over(1)["active"] == other
    helm.client.ask({"id": "one", "prompt": "a", "max_tokens": 2})
    assert helm.client.final("one")["model"] == other
    helm.agent.stop(signal.SIGKILL)
    helm.agent.start().wait_online(helm.client)
    helm.client.ask({"id": "two", "prompt": "a", "max_tokens": 2})
    assert helm.client.final("two")["model"] == other


def test_what_is_not_possible_is_refused_with_all_reasons(helm: Helm) -> None:
    """A model that is not there, a setting that there is not: nothing changes until there is a newer wish.

    What has no version is no release that could still come.
    """
    helm.wish(1, model="ghost@1", settings={"limits.queue": 0, "limits.colour": "red"})
    error = helm.over(1, "refused")["error"]
    assert "cannot activate model 'ghost@1'" in error
    assert "cannot set limits.queue to 0" in error
    assert "cannot set 'limits.colour' from afar" in error
    helm.wish(2, model="ghost", settings={"limits.queue": 2})
    assert "cannot activate model 'ghost'" in helm.over(2, "refused")["error"]
    helm.wish(3, settings={"limits.queue": 3})
    assert helm.over(3)["settings"]["limits.queue"] == 3


REFUSED: dict[str, tuple[str, Callable[[Helm], bytes]]] = {
    "wrong key": ("document_key_unknown", lambda helm: helm.desired(9, key=Ed25519PrivateKey.generate())),
    "other node's": ("document_misaddressed", lambda helm: helm.desired(9, node="somebody-else")),
    "older": ("document_outdated", lambda helm: helm.desired(1)),
    "same revision, other text": (
        "document_revision_reused", lambda helm: helm.desired(2, settings={"limits.queue": 9})
    ),
    "expired": ("document_expired", lambda helm: helm.desired(9, exp=now_ms() - 1)),
    "from a future": ("document_from_future", lambda helm: helm.desired(9, issued=now_ms() + 2 * DAY_MS)),
    "no document": ("document_malformed", lambda _: b'{"rev": 9}'),
}  # fmt: skip


def test_documents_that_are_not_to_be_trusted_change_nothing(helm: Helm) -> None:
    """Each is one event, however often it comes; what is in force stays, and the next good one is followed."""
    helm.wish(2, settings={"limits.queue": 5})
    helm.over(2)
    for event, document in REFUSED.values():
        forged = document(helm)
        for _ in range(2):
            helm.publish(forged)
        assert helm.alert("document_refused", event=event)["reason"].startswith("cannot accept the document")
    helm.wish(10, settings={"limits.queue": 6})
    assert helm.over(10)["settings"]["limits.queue"] == 6
    events = [data["event"] for data in helm.alerts("document_refused")]
    assert sorted(events) == sorted(event for event, _ in REFUSED.values())


def test_a_clock_two_years_behind_is_told_and_wishes_are_followed(tiny_lab: Lab) -> None:
    """What has certainly passed is the time: a wish that was signed now holds, one that has expired by it does not."""
    agent = tiny_lab.agent()
    helm = Helm(agent, tiny_lab.client(agent))
    two_years_ms = 2 * 365 * DAY_MS
    helm.enrol(ahead_ms=two_years_ms)
    agent.start().wait_online(helm.client)
    assert helm.alert("clock_wrong")["off_s"] < -600 * 24 * 3600
    helm.publish(helm.desired(1))  # it expires in a day, two years ago
    helm.alert("document_refused", event="document_expired")
    then = now_ms() + two_years_ms
    helm.wish(2, issued=then, exp=then + DAY_MS, settings={"limits.queue": 4})
    assert helm.over(2)["settings"]["limits.queue"] == 4


def test_an_agent_that_is_not_enrolled_ignores_wishes(tiny_lab: Lab) -> None:
    """It says so once, and answers as ever."""
    agent, client = tiny_lab.online()
    assert agent.status()["desired"] is None
    assert len(agent.records("not enrolled: desired state and commands are not followed")) == 1
    client.ask({"id": "r", "prompt": "a", "max_tokens": 2})
    assert client.final("r")["status"] == 200
    assert not [m for m in client.seen if m.topic.endswith("/reported")]


def test_a_kill_at_any_point_ends_in_the_wish(helm: Helm) -> None:
    """Revision after revision, killed in one phase or the other; each is confirmed after the start that follows."""
    other = label_of(helm, OTHER)
    seen: set[str] = set()
    for rev in range(1, 7):
        model, queue = (other if rev % 2 else None), 10 + rev
        helm.wish(rev, model=model, settings={"limits.queue": queue})
        seen.add(killed_in(helm, rev, {("checking", "switching", "confirmed")[rev % 3], "confirmed"}))
        helm.agent.start().wait_online(helm.client)
        wait_for(helm, {"rev": rev, "phase": "confirmed"}, {"limits.queue": queue})
    assert len(seen) > 1


def killed_in(helm: Helm, rev: int, phases: set[str]) -> str:
    """Kills the agent as soon as a revision is in one of these phases; returns which it was."""
    report = helm.reported(lambda r: r["rev"] == rev and r["phase"] in phases)
    helm.agent.stop(signal.SIGKILL)
    return str(report["phase"])


def wait_for(helm: Helm, state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Waits for a status that says this about the desired state."""
    helm.agent.wait_status(
        lambda s: state.items() <= s["desired"].items() and settings.items() <= s["desired"]["settings"].items(),
        f"{state} {settings}",
    )
