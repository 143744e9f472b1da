"""What a node knows of its neighbours' load."""

from msgspec.structs import replace

from agent.neighbours import SPARED_S, STALE_S, Neighbours, differs_much
from agent.router import Place
from contract.presence import Load
from contract.requests import Request

LOAD = Load(
    ts=1, wait_ms=100, prefill_tok_s=500.0, decode_tok_s=50.0, context_tokens=2048, models=["m@1"], adapters=["a@2"]
)
ASKED = Request(prompt="x", model="m", adapter="a")


def test_a_neighbour_is_a_place_until_it_is_silent_for_two_heartbeats() -> None:
    """Or says that it goes."""
    known = Neighbours()
    known.heard("n2", LOAD, 10.0)
    assert known.places(ASKED, 10.0) == [Place("n2", 100, 500.0, 50.0, 2048)]
    assert known.places(ASKED, 10.0 + STALE_S) == []
    known.heard("n2", LOAD, 900.0)
    known.heard("n2", None, 901.0)
    assert known.places(ASKED, 902.0) == []


def test_who_lacks_the_model_or_the_adapter_is_not_able() -> None:
    """By name or by name and version; the bare default model everybody has, and an embedding model is not told of."""
    known = Neighbours()
    known.heard("n2", LOAD, 0.0)
    wanted = {
        (None, None): True, ("m@1", "a@2"): True, ("m", None): True, ("m@2", None): False, ("m", "b"): False,
    }  # fmt: skip
    for (model, adapter), able in wanted.items():
        request = replace(ASKED, model=model, adapter=adapter)
        assert [place.able for place in known.places(request, 0.0)] == [able], request
    embedding = Request(task="embed", input="x")
    assert [place.able for place in known.places(embedding, 0.0)] == [False]


def test_what_was_handed_over_counts_until_the_neighbour_speaks() -> None:
    """So a burst is spread."""
    known = Neighbours()
    known.heard("n2", LOAD, 0.0)
    known.handed("n2", 1_300)
    known.handed("n2", 2_500)
    assert known.places(ASKED, 1.0)[0].wait_ms == 2_500
    known.heard("n2", replace(LOAD, wait_ms=300), 2.0)
    assert known.places(ASKED, 2.0)[0].wait_ms == 300


def test_who_did_not_take_what_it_was_handed_is_left_alone_for_a_while() -> None:
    """Also when an old message of it still says that it is idle."""
    known = Neighbours()
    known.heard("n2", LOAD, 0.0)
    known.failed("n2", 1.0)
    known.heard("n2", LOAD, 2.0)
    assert known.places(ASKED, 3.0) == []
    assert known.places(ASKED, 1.0 + SPARED_S) != []


def test_only_a_load_that_changed_much_is_worth_a_message() -> None:
    """A wait of twice or half; other models; the first one."""
    assert differs_much(None, LOAD)
    assert not differs_much(LOAD, replace(LOAD, ts=2, wait_ms=500))
    assert differs_much(LOAD, replace(LOAD, wait_ms=1_000))
    assert differs_much(replace(LOAD, wait_ms=1_000), LOAD)
    assert differs_much(LOAD, replace(LOAD, adapters=[]))
