"""Which adapter is in which slot."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.slot_table import Claim, SlotTable


def test_adapters_are_written_once() -> None:
    """A second user finds it there, also after the first one has gone."""
    table = SlotTable(2)
    assert table.claim("a") == Claim(1, is_new=True)
    assert table.claim("a") == Claim(1, is_new=False)
    table.release(1)
    table.release(1)
    assert table.claim("a") == Claim(1, is_new=False)


def test_an_empty_slot_is_taken_before_one_with_an_adapter() -> None:
    """What is there may be needed again."""
    table = SlotTable(2)
    table.claim("a")
    table.release(1)
    assert table.claim("b") == Claim(2, is_new=True)
    assert table.claim("a") == Claim(1, is_new=False)


def test_what_was_not_needed_for_the_longest_goes() -> None:
    """Of slots without users the least recently used one is given away."""
    table = SlotTable(2)
    for adapter in ("a", "b"):
        table.claim(adapter)
    for slot in (1, 2):
        table.release(slot)
    table.claim("a")
    table.release(1)
    assert table.claim("c") == Claim(2, is_new=True)


def test_a_slot_in_use_is_not_given_away() -> None:
    """Who finds all in use waits, and gets the first that is free."""
    table = SlotTable(1)
    table.claim("a")
    assert table.claim("b") is None
    table.release(1)
    assert table.claim("b") == Claim(1, is_new=True)


def test_a_crowd_does_not_shut_out_one_that_waits() -> None:
    """Once a slot is promised to another adapter, it takes no new users of the one it holds."""
    table = SlotTable(1)
    table.claim("crowd")
    assert table.claim("rare") is None
    assert table.claim("crowd") is None
    table.release(1)
    assert table.claim("crowd") is None
    assert table.claim("rare") == Claim(1, is_new=True)


def test_the_slot_with_the_fewest_users_is_promised() -> None:
    """It will be free soonest; users of the other one go on as before."""
    table = SlotTable(2)
    for adapter in ("a", "a", "b"):
        table.claim(adapter)
    assert table.claim("c") is None
    assert table.claim("a") == Claim(1, is_new=False)
    assert table.claim("b") is None


def test_a_promise_ends_when_nobody_waits_any_more() -> None:
    """A request that was cancelled while it waited keeps nobody out."""
    table = SlotTable(1)
    table.claim("a")
    assert table.claim("b") is None
    table.keep_promises_to({"a"})
    assert table.claim("a") == Claim(1, is_new=False)


@given(
    num_slots=st.integers(1, 3),
    arrivals=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 6)), max_size=40),
    streams=st.integers(1, 4),
)
def test_everybody_gets_a_slot_with_the_right_adapter(
    num_slots: int, arrivals: list[tuple[str, int]], streams: int
) -> None:
    """In a flow of requests, none waits for ever, and no slot is written while another adapter's user has it."""
    table = SlotTable(num_slots)
    waiting = deque(enumerate(arrivals))
    content: dict[int, str] = {}
    running: list[tuple[int, str, int]] = []  # until when, adapter, slot
    overtaken: Counter[int] = Counter()
    now = 0
    while waiting or running:
        table.keep_promises_to({adapter for _, (adapter, _) in waiting})
        for entry in list(waiting):
            number, (adapter, length) = entry
            if len(running) == streams:
                break
            claim = table.claim(adapter)
            if claim is None:
                continue
            if claim.is_new:
                assert all(slot != claim.slot for _, _, slot in running)
                content[claim.slot] = adapter
            assert content[claim.slot] == adapter
            assert 1 <= claim.slot <= num_slots
            running.append((now + length, adapter, claim.slot))
            overtaken.update(other for other, _ in waiting if other < number)
            waiting.remove(entry)
        now += 1
        for end in [run for run in running if run[0] <= now]:
            running.remove(end)
            table.release(end[2])
        assert now < 10 * (len(arrivals) + 1)
    assert all(slot.num_users == 0 for slot in table.slots)
    assert max(overtaken.values(), default=0) <= 4 * streams + 8
