"""Releases on a real agent: they come, are tried beside what serves, and serve; or do not, and nothing is lost."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.adapters import make_adapter
from tests.fakes.folder_depot import publish
from tests.fakes.helm import Helm
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.releases import make_release
from tests.fakes.tiny_model import tiny_model
from tests.system.conftest import Lab

TINY: dict[str, Any] = {"dtype": "f32", "num_spare": 4, "context_tokens": 512, "endless": True}


class Place:
    """An agent, and the releases that it can have."""

    def __init__(self, folder: Path, broker: Mosquitto, **environment: str) -> None:
        self.folder = folder
        self.base = folder / "base.gguf"
        self.base.write_bytes(tiny_model(**TINY).build())
        self._objects = Objects(folder / "objects")
        self.lab = Lab(folder, broker, self.base)
        self.agent = self.lab.agent()
        self.agent.depot = folder / "depot"
        self.helm = Helm(self.agent, self.lab.client(self.agent))
        self.agent.start(**environment).wait_online(self.helm.client)
        self.agent.wait_engine()

    def model(self, version: str, *, broken: bool = False, **facts: Any) -> Release:
        """A model of the same weights; a broken one computes no numbers."""
        builder = tiny_model(**TINY).key("general.version", "string", version)
        if broken:
            kind, shape, data = builder.tensors["blk.0.ffn_norm.weight"]
            builder.tensors["blk.0.ffn_norm.weight"] = (kind, shape, b"\xff\xff\xff\x7f" * (len(data) // 4))
        path = self.folder / f"m{version}.gguf"
        path.write_bytes(builder.build())
        return self._publish(path, name="m", version=version, **facts)

    def adapter(self, version: str, base: Release | Path, *, seed: int = 1) -> Release:
        """An adapter for a base."""
        path = self.folder / f"a{version}.gguf"
        make_adapter(path, self.base, seed=seed, scale=0.05)
        return self._publish(path, name="tone", version=version, kind="adapter", base_sha256=digest(base))

    def _publish(self, path: Path, **facts: Any) -> Release:
        # A step of a tiny model takes no time: its speed is that of other work on this machine.
        release = make_release(path, self._objects, min_speed=0.001, **facts)
        publish(self.folder / "depot", release, path)
        return release

    def answered_by(self, request_id: str) -> tuple[str, str | None]:
        """The model and the adapter that answer."""
        self.helm.client.ask({"id": request_id, "prompt": "a", "max_tokens": 2})
        final = self.helm.client.final(request_id)
        assert final["status"] == 200
        return str(final["model"]), final["adapter"]

    def updates(self) -> dict[str, Any]:
        """What `update status` says."""
        return dict(json.loads(self.agent.command("update", "status", "--json").stdout))


def digest(base: Release | Path) -> str:
    """Of a model's file."""
    from agent.models import digest_of

    return digest_of(base) if isinstance(base, Path) else base.file.sha256


@pytest.fixture
def place(tmp_path: Path, broker: Mosquitto) -> Iterator[Place]:
    """An agent with a tiny model."""
    made = Place(tmp_path, broker)
    yield made
    made.lab.close()


def test_releases_come_and_serve(place: Place) -> None:
    """A model, an adapter on it, and a model that is bad: that one is turned away, and what is good serves on."""
    first = place.model("1")
    place.helm.wish(1, model="m@1")
    said = place.helm.over(1)
    assert (said["active"], said["last_good"], said["gate"]["passed"]) == ("m@1", "smollm2@1", True)
    assert place.answered_by("one") == ("m@1", None)
    place.adapter("1", first)
    place.helm.wish(2, model="m@1", adapters=["tone@1"])
    assert place.helm.over(2)["adapters"] == ["tone@1"]
    assert place.answered_by("two") == ("m@1", "tone@1")
    place.model("2", broken=True)
    place.helm.wish(3, model="m@2", adapters=["tone@1"])
    said = place.helm.over(3, "refused")
    assert (said["active"], said["adapters"], said["gate"]["passed"]) == ("m@1", ["tone@1"], False)
    assert place.helm.alert("update_rejected", release="m@2")["slot"] == "model"
    assert place.answered_by("three") == ("m@1", "tone@1")
    place.agent.stop(signal.SIGKILL)
    place.agent.start().wait_online(place.helm.client)
    assert place.answered_by("four") == ("m@1", "tone@1")
    assert {path.name for path in (place.agent.state_dir / "update").iterdir()} == set()
    assert set(place.updates()) == {"model", "adapter:tone"}
    assert json.loads(place.agent.command("rollback", "--json").stdout) == {"changed": ["adapter:tone", "model"]}
    said = place.helm.reported(lambda r: r["phase"] == "rolled_back" and r["active"] == "smollm2@1")
    assert said["adapters"] == []
    assert place.answered_by("five") == ("smollm2@1", None)


def test_a_node_with_memory_for_one_engine_tries_and_switches_in_its_place(tmp_path: Path, broker: Mosquitto) -> None:
    """What is asked meanwhile waits, and is answered by the old model or by the new one; nothing is lost."""
    place = Place(tmp_path, broker, SHOAL_ENGINE_MEMORY_MIB="90", SHOAL_ENGINE_PARALLEL="1")
    place.model("1")
    place.helm.client.ask({"id": "runs", "prompt": "a", "max_tokens": 300})
    place.helm.wish(1, model="m@1")
    place.agent.wait_record("all models make room")
    for number in range(3):
        place.helm.client.ask({"id": f"waits{number}", "prompt": "a", "max_tokens": 2})
    assert place.helm.over(1)["active"] == "m@1"
    finals = [place.helm.client.final(name) for name in ("runs", "waits0", "waits1", "waits2")]
    assert [(final["status"], final["model"]) for final in finals] == [(200, "smollm2@1")] * 4
    assert place.answered_by("after") == ("m@1", None)
    place.lab.close()


def test_a_release_whose_engine_crashes_gives_way(place: Place) -> None:
    """Three times within the hour; the requests that it had are answered."""
    place.model("1")
    place.helm.wish(1, model="m@1")
    place.helm.over(1)
    pid = 0
    for _ in range(3):
        pid = place.agent.wait_engine(other_than=pid)
        place.agent.kill_engine()
    said = place.helm.over(1, "rolled_back")
    assert (said["active"], said["error"]) == ("smollm2@1", "cannot keep m@1: it crashed 3 times in 10 minutes")
    assert place.helm.alert("update_rolled_back")["release"] == "m@1"
    assert place.answered_by("after") == ("smollm2@1", None)
