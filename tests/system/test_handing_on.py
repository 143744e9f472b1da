"""Two agents of a site: what one cannot answer, or not in time, the other does, as far as privacy allows."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.mosquitto import Mosquitto
from tests.system.conftest import ENDLESS, Lab

SITE = "[engine]\nparallel = 1\n[limits]\nqueue = 1\n"
SHORT: dict[str, Any] = {"prompt": "Name a colour.", "max_tokens": 4, "temperature": 0}


class Pair:
    """A node that is asked, and its neighbour, which has its model under another name too."""

    def __init__(self, lab: Lab) -> None:
        self.near, self.far = lab.agent(SITE), lab.agent(SITE)
        self.client = lab.client(self.near)
        self.client.listen("site/cellar/load/+")
        self.client.listen(f"node/{self.far.node}/req/+")
        self.near.start(SHOAL_NODE_SITE="cellar")
        self.far.start(SHOAL_NODE_SITE="cellar", SHOAL_MODEL_NAME="other")
        for node in (self.near, self.far):
            self.client.wait(lambda m, node=node: m.topic.endswith(f"/load/{node.node}") and m.payload != b"")  # type: ignore[misc]

    def ask(self, request_id: str, **fields: Any) -> dict[str, Any]:
        """The final of a request to the near one."""
        self.client.ask({"id": request_id, **SHORT, **fields})
        return self.client.final(request_id)

    def handed(self) -> list[dict[str, Any]]:
        """What went over the broker to the neighbour."""
        self.client.settle()
        return [m.json for m in self.client.seen if f"/node/{self.far.node}/req/" in m.topic]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto, model: Path) -> Iterator[Pair]:
    """Two agents that know each other's load."""
    lab = Lab(tmp_path_factory.mktemp("site"), broker, model)
    yield Pair(lab)
    lab.close()


def test_a_model_that_only_the_neighbour_has_is_asked_there(pair: Pair) -> None:
    """Whole and in pieces; the answer says who and why. The same id again is the same answer, and asked once."""
    final = pair.ask("m1", model="other", privacy="site")
    assert (final["status"], final["served_by"], final["why"]) == (200, f"peer:{pair.far.node}", "capability")
    assert (final["id"], final["node"], final["model"]) == ("m1", pair.near.node, "other@1")
    streamed = pair.ask("m2", model="other", privacy="site", stream=True)
    pieces = [delta["text"] for delta in pair.client.deltas("m2") if delta["seq"]]
    assert "".join(pieces) == streamed["text"] == final["text"]
    num_handed = len(pair.handed())
    assert pair.ask("m1", model="other", privacy="site") == final
    assert len(pair.handed()) == num_handed


def test_a_local_prompt_stays_and_is_refused(pair: Pair) -> None:
    """By default too; nothing of it is on the neighbour's topic."""
    before = len(pair.handed())
    for number, privacy in enumerate(({}, {"privacy": "local"})):
        final = pair.ask(f"l{number}", model="other", **privacy)
        assert (final["status"], final["error"]["code"]) == (404, "model")
    assert len(pair.handed()) == before


def test_a_full_node_hands_on_what_may_leave_and_refuses_the_rest(pair: Pair) -> None:
    """And what the neighbour gets it answers itself: handed on once, by a node, for a client."""
    for number in range(2):  # one runs, one waits
        pair.client.ask({"id": f"e{number}", **SHORT, "max_tokens": 400, "stream": True, "ttl_ms": 60_000, **ENDLESS})
        pair.client.wait(lambda m, number=number: m.topic.endswith(f"/rx/e{number}/delta"))  # type: ignore[misc]
    assert pair.ask("q1")["status"] == 429
    final = pair.ask("q2", privacy="site")
    assert (final["status"], final["served_by"], final["why"]) == (200, f"peer:{pair.far.node}", "queue")
    handed = pair.handed()[-1]
    assert handed["handed"] == {"client": pair.client.client, "why": "queue"}
    assert handed["id"] != "q2"
    for number in (1, 0):
        pair.client.publish(f"node/{pair.near.node}/cancel/{pair.client.client}", f'{{"id":"e{number}"}}')
        assert pair.client.final(f"e{number}")["status"] == 499


def test_a_neighbour_that_died_loses_no_request(pair: Pair) -> None:
    """Each gets its final; from the second one on it is not even tried."""
    pair.far.stop(signal.SIGKILL)
    finals = [pair.ask(f"d{number}", model="other", privacy="site", ttl_ms=20_000) for number in range(2)]
    assert [final["status"] for final in finals] == [502, 404]
    assert pair.ask("d2", privacy="site")["served_by"] == "local"
