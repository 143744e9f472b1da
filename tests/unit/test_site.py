"""What a node tells its site, and whom it believes."""

import msgspec
import pytest
from msgspec.structs import replace

from agent.neighbours import STALE_S
from agent.site import Site
from contract.presence import Load
from contract.requests import Request
from contract.topics import NodeLoad

LOAD = Load(ts=1, wait_ms=0, prefill_tok_s=500.0, decode_tok_s=50.0, context_tokens=2048, models=["m@1"])
REQUEST = Request(prompt="x")


class Place:
    """A site's node and what it published."""

    def __init__(self, name: str = "cellar") -> None:
        self.load: Load | None = LOAD
        self.now_ms = 1_800_000_000_000
        self.said: list[tuple[str, bytes]] = []
        self.site = Site(
            "n1", name, "home", own_load=lambda: self.load, now_ms=lambda: self.now_ms,
            publish=lambda topic, payload, **_: self.said.append((topic, payload)),
        )  # fmt: skip

    def hears(self, load: Load | bytes, *, node: str = "n2", retained: bool = False) -> bool:
        """Whether a neighbour is known after it said this."""
        payload = load if isinstance(load, bytes) else msgspec.json.encode(load)
        self.site.hear(NodeLoad("cellar", node), payload, retained=retained)
        return bool(self.site.neighbours.places(REQUEST, 0.0))


def test_a_load_is_said_when_it_changes_much_and_taken_back_at_the_end() -> None:
    """And again at a heartbeat; while no engine runs there is none."""
    place = Place()
    place.site.tell()
    place.site.tell()
    assert place.said == [("shoal/v1/home/site/cellar/load/n1", msgspec.json.encode(LOAD))]
    place.load = replace(LOAD, wait_ms=5_000)
    place.site.tell()
    place.site.tell(again=True)
    assert len(place.said) == 3
    place.load = None
    place.site.tell()
    place.site.tell()
    assert [payload for _, payload in place.said[3:]] == [b""]
    place.site.leave()
    assert place.said[-1][1] == b""


@pytest.mark.parametrize("name", ["", "my site", "Cellar/1"])
def test_without_a_site_that_is_an_id_nothing_is_said_or_heard(name: str) -> None:
    """So nobody is a neighbour by mistake."""
    place = Place(name)
    place.site.tell(again=True)
    place.site.leave()
    assert (place.said, place.site.filters, place.site.name) == ([], [], "")


def test_what_a_broker_kept_of_a_node_that_is_gone_is_not_believed() -> None:
    """An old message that was retained; its own; one that cannot be read. A live one always is."""
    place = Place()
    old = replace(LOAD, ts=place.now_ms - int(STALE_S * 1000) - 1)
    assert not place.hears(old, retained=True)
    assert not place.hears(LOAD, node="n1")
    assert not place.hears(b"{")
    assert place.hears(replace(LOAD, ts=place.now_ms), retained=True)
    assert not place.hears(b"")
    assert place.hears(old)
