"""Where a request is answered."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.router import CloudState, Decision, Here, Place, WayName, Work, route
from contract.requests import Reason

WORK = Work(prompt_tokens=100, completion_tokens=50, left_ms=10_000, may_site=True, may_cloud=True)
OWN = Place("own", wait_ms=0, prefill_tok_s=500, decode_tok_s=50, context_tokens=2048)
BUSY = replace(OWN, wait_ms=60_000)
FAST, SLOW = replace(OWN, node="fast", decode_tok_s=100), replace(OWN, node="slow", decode_tok_s=10)
OPEN, CLOSED = CloudState(open=True, ends_ms=2_000), CloudState(open=False)


def test_the_prediction_is_what_waits_then_prompt_then_answer() -> None:
    """100 tokens at 500, 50 at 50: 200 ms and a second, behind the wait."""
    assert replace(OWN, wait_ms=300).ends_ms(WORK) == 1_500


def test_what_can_be_answered_here_in_time_stays_here() -> None:
    """Even if others are faster."""
    assert route(WORK, Here(OWN), [FAST], OPEN) == Decision("local", None, "own", 1_200)


def test_too_long_a_queue_goes_to_the_neighbour_that_ends_first() -> None:
    """By the predicted end, not by the wait."""
    idle_slow, waiting_fast = replace(SLOW, wait_ms=0), replace(FAST, wait_ms=1_000)
    decision = route(WORK, Here(BUSY), [idle_slow, waiting_fast], OPEN)
    assert (decision.way, decision.why, decision.node) == ("peer", "queue", "fast")


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (Here(replace(OWN, able=False)), "capability"),
        (Here(OWN, healthy=False), "health"),
        (Here(replace(OWN, context_tokens=100)), "context"),
        (Here(BUSY), "queue"),
        (Here(OWN, full=True), "queue"),
    ],
)
def test_each_reason_goes_to_a_neighbour_then_to_the_cloud(here: Here, why: Reason) -> None:
    """As privacy and what is there allow; the reason goes along."""
    peer = route(WORK, here, [FAST], OPEN)
    assert (peer.way, peer.why) == ("peer", why)
    for neighbours in (
        [],
        [replace(FAST, able=False)],
        [replace(FAST, context_tokens=10)],
        [replace(FAST, wait_ms=1e5)],
    ):
        assert (route(WORK, here, neighbours, OPEN).way, route(WORK, here, neighbours, OPEN).why) == ("cloud", why)
    assert route(replace(WORK, may_site=False), here, [FAST], OPEN).way == "cloud"
    last: WayName = "local" if why in ("queue", "context") and not here.full else "refuse"
    for work, cloud in ((replace(WORK, may_cloud=False), OPEN), (WORK, CLOSED), (replace(WORK, left_ms=1_500), OPEN)):
        assert route(work, here, [], cloud) == Decision(last, why, "own", here.place.ends_ms(work))


def test_an_unsure_answer_goes_to_the_cloud_and_not_to_a_neighbour() -> None:
    """A neighbour's model is no larger. Without a cloud the own answer is better than none, and says so."""
    unsure = Here(OWN, right=0.4, right_enough=0.5)
    assert (route(WORK, unsure, [FAST], OPEN).way, route(WORK, unsure, [FAST], OPEN).why) == ("cloud", "confidence")
    alone = route(WORK, unsure, [FAST], CLOSED)
    assert (alone.way, alone.why) == ("local", "confidence")
    assert route(WORK, replace(unsure, right=0.5), [FAST], OPEN).why is None


def test_what_was_handed_on_is_not_handed_on_again() -> None:
    """It ends here, one way or the other."""
    handed = replace(WORK, handed=True)
    assert route(handed, Here(BUSY), [FAST], OPEN).way == "local"
    assert route(handed, Here(replace(OWN, able=False)), [FAST], OPEN).way == "refuse"


def test_a_neighbour_that_would_end_later_is_no_help_but_to_a_full_node() -> None:
    """When both are late, or it only seems free. A full node cannot take it at all."""
    assert route(WORK, Here(OWN, full=True), [SLOW], CLOSED).way == "peer"
    work = replace(WORK, left_ms=70_000)
    assert route(work, Here(replace(OWN, wait_ms=69_500)), [replace(FAST, wait_ms=69_300)], CLOSED).way == "peer"
    assert route(work, Here(replace(OWN, wait_ms=69_500)), [replace(SLOW, wait_ms=69_300)], CLOSED).way == "local"


PLACES = st.builds(
    Place,
    node=st.sampled_from(["a", "b", "c"]),
    wait_ms=st.floats(0, 1e5),
    prefill_tok_s=st.sampled_from([0.0, 50.0, 500.0]),
    decode_tok_s=st.sampled_from([0.0, 5.0, 50.0]),
    context_tokens=st.integers(64, 4096),
    able=st.booleans(),
)
WORKS = st.builds(
    Work,
    prompt_tokens=st.integers(0, 4096),
    completion_tokens=st.integers(1, 1024),
    left_ms=st.floats(0, 1e5),
    may_site=st.booleans(),
    may_cloud=st.booleans(),
    handed=st.booleans(),
)
HERES = st.builds(
    Here,
    place=PLACES,
    healthy=st.booleans(),
    full=st.booleans(),
    right=st.none() | st.floats(0, 1),
    right_enough=st.floats(0, 1),
)


@given(WORKS, HERES, st.lists(PLACES, max_size=5), st.builds(CloudState, open=st.booleans(), ends_ms=st.floats(0, 1e5)))
def test_nothing_goes_where_it_may_not(work: Work, here: Here, neighbours: list[Place], cloud: CloudState) -> None:
    """And each decision but the plain one has its reason; what the node can do at all it never refuses."""
    decision = route(work, here, neighbours, cloud)
    assert decision.way != "peer" or (work.may_site and not work.handed)
    assert decision.way != "cloud" or (work.may_cloud and cloud.open and not work.handed)
    assert decision.why is not None or decision.way == "local"
    able = here.place.able and here.healthy and not here.full
    assert decision.way != "refuse" or not able
    if decision.way == "peer":
        chosen = [place for place in neighbours if place.node == decision.node]
        assert any(place.able and place.ends_ms(work) <= work.left_ms for place in chosen)


def test_a_decision_takes_less_than_a_fifth_of_a_millisecond() -> None:
    """With thirty neighbours; the median of many, in processor time."""
    neighbours = [replace(FAST, node=f"n{number}", wait_ms=number * 100.0) for number in range(30)]
    here, took = Here(BUSY), list[float]()
    for _ in range(300):
        begun = time.process_time_ns()
        route(WORK, here, neighbours, OPEN)
        took.append((time.process_time_ns() - begun) / 1e6)
    assert sorted(took)[150] < 0.2
