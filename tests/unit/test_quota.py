"""Requests in a minute, tokens in a day."""

from hypothesis import given
from hypothesis import strategies as st

from contract.quota import MINUTE_MS, take

START_MS = 1_800_000_000_000


def test_a_full_bucket_gives_its_requests_at_once_and_then_says_how_long_to_wait() -> None:
    """Of 3 in a minute the fourth has to wait for 20 s, and then gets in."""
    bucket = None
    for _ in range(3):
        bucket, wait_ms = take(bucket, 3, START_MS)
        assert wait_ms == 0
    bucket, wait_ms = take(bucket, 3, START_MS)
    assert wait_ms == 20_000
    bucket, again_ms = take(bucket, 3, START_MS + 19_000)
    assert again_ms == 1000
    assert take(bucket, 3, START_MS + 20_000)[1] == 0


def test_a_quota_that_is_lowered_holds_at_once() -> None:
    """What a client had left of the old one is cut."""
    bucket, _ = take(None, 100, START_MS)
    bucket, _ = take(bucket, 1, START_MS)
    assert take(bucket, 1, START_MS)[1] == MINUTE_MS


@given(st.integers(1, 1000), st.lists(st.integers(-1000, 30_000), max_size=300))
def test_no_minute_has_more_than_twice_the_quota(per_minute: int, pauses_ms: list[int]) -> None:
    """However a client asks, and whatever the clock does: a full bucket and what flows in is all there is."""
    now_ms, bucket, taken = START_MS, None, list[int]()
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        bucket, wait_ms = take(bucket, per_minute, now_ms)
        assert wait_ms >= 0
        if not wait_ms:
            taken.append(now_ms)
    if all(pause >= 0 for pause in pauses_ms):
        for start in taken:
            assert sum(start <= one < start + MINUTE_MS for one in taken) <= 2 * per_minute
