"""Adapters that are active, and what else a request leaves open, on a real agent."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.control import call
from agent.models import digest_of
from agent.store.database import FILE
from contract.requests import Request
from tests.fakes.adapters import make_adapter
from tests.fakes.helm import Helm
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import Lab

BASE: dict[str, Any] = {"dtype": "f32", "num_spare": 4, "context_tokens": 512, "endless": True}


@pytest.fixture
def helm(tmp_path: Path, broker: Mosquitto) -> Iterator[Helm]:
    """An agent with two adapters, and a second model for which they are not made."""
    base = write_tiny_model(tmp_path / "base.gguf", **BASE)
    lab = Lab(tmp_path, broker, base)
    agent = lab.agent()
    for name, layers in (("lights", [0]), ("doors", [1])):
        adapter = make_adapter(tmp_path / f"{name}.gguf", base, layers=layers)
        done = agent.command("adapters", "import", str(adapter))
        assert done.returncode == 0, done.stderr
    (agent.state_dir / "models").mkdir()
    write_tiny_model(agent.state_dir / "models" / "other.gguf", **BASE, seed=2)
    helm = Helm(agent, lab.client(agent))
    agent.start().wait_online(helm.client)
    yield helm
    lab.close()


def label(helm: Helm, name: str) -> str:
    """`name@version` of an adapter."""
    entries = json.loads(helm.agent.command("adapters", "ls", "--json").stdout)
    return next(str(entry["adapter"]) for entry in entries if entry["name"] == name)


def held(helm: Helm) -> set[str]:
    """Digests of the adapters that never make room for others."""
    return set(next(call(helm.agent.state_dir, {"op": "adapters"}, 10.0))["adapters"]["in_use"])


def answered_by(helm: Helm, request_id: str, **fields: Any) -> str | None:
    """The adapter that answers."""
    helm.client.ask({"id": request_id, "prompt": "a", "max_tokens": 2, **fields})
    final = helm.client.final(request_id)
    assert final["status"] == 200
    return None if final["adapter"] is None else str(final["adapter"])


def test_the_first_active_adapter_answers_requests_that_leave_it_open(helm: Helm, tmp_path: Path) -> None:
    """Null is the bare model, a name is that one; all active ones are held, also after a kill -9."""
    lights, doors = label(helm, "lights"), label(helm, "doors")
    digests = {digest_of(tmp_path / f"{name}.gguf") for name in ("lights", "doors")}
    assert answered_by(helm, "before") is None
    helm.wish(1, adapters=[lights, doors])
    assert helm.over(1)["adapters"] == [lights, doors]
    assert answered_by(helm, "open") == lights
    assert answered_by(helm, "bare", adapter=None) is None
    assert answered_by(helm, "named", adapter="doors") == doors
    assert held(helm) == digests
    helm.agent.stop(signal.SIGKILL)
    helm.agent.start().wait_online(helm.client)
    assert answered_by(helm, "again") == lights
    assert held(helm) == digests
    helm.wish(2)
    helm.over(2)
    assert answered_by(helm, "after") is None
    assert held(helm) == set()


def test_an_adapter_of_another_base_is_refused(helm: Helm) -> None:
    """With the model that it would be active on."""
    other = next(str(m["model"]) for m in helm.agent.status()["models"] if str(m["model"]).startswith("other"))
    helm.wish(1, model=other, adapters=[label(helm, "lights")])
    assert "it was made for another base" in helm.over(1, "refused")["error"]
    assert helm.agent.status()["engine"]["model"] == "smollm2@1"


def test_the_privacy_that_is_set_holds_for_requests_that_do_not_say(helm: Helm) -> None:
    """As the journal has it, from which they run again."""
    helm.wish(1, settings={"privacy.default": "site"})
    helm.over(1)
    endless = {"prompt": "a", "max_tokens": 400, "stream": True}
    helm.client.ask({"id": "open", **endless})
    helm.client.ask({"id": "said", "privacy": "any", **endless})
    for topic in ("/rx/open/delta", "/rx/said/delta"):
        helm.client.wait(lambda m, topic=topic: bool(m.topic.endswith(topic)))  # type: ignore[misc]
    with sqlite3.connect(f"file:{helm.agent.state_dir / FILE}?mode=ro", uri=True) as db:
        rows = dict(db.execute("SELECT id, body FROM requests WHERE body IS NOT NULL").fetchall())
    found = {name: msgspec.json.decode(body, type=Request).privacy for name, body in rows.items()}
    assert found == {"open": "site", "said": "any"}
