"""Requests in a minute and tokens in a day: how the controller and every node count what a client asks for. Pure."""

from msgspec import Struct

from contract.enrolment import DAY_MS

MINUTE_MS = 60_000

CODE = "quota"  # of a refusal with 429: the sender asks for more than it may, whatever room there is


class Bucket(Struct, frozen=True):
    """Requests that may be made at once. It fills up again evenly, within a minute."""

    left: float
    at_ms: int


def take(bucket: Bucket | None, per_minute: int, now_ms: int) -> tuple[Bucket, int]:
    """Takes a request out.

    Returns:
        The bucket as it is then, and in how many ms there will be one to take; 0 when it was taken now.
    """
    left = float(per_minute)
    if bucket is not None:
        left = min(left, bucket.left + per_minute * max(0, now_ms - bucket.at_ms) / MINUTE_MS)
    if left >= 1:
        return Bucket(left - 1, now_ms), 0
    return Bucket(left, now_ms), max(1, int((1 - left) * MINUTE_MS / per_minute))


def day_of(now_ms: int) -> int:
    """The day for which tokens are counted: from 1970, in UTC."""
    return now_ms // DAY_MS


def next_day_ms(now_ms: int) -> int:
    """In how many ms the next day begins."""
    return DAY_MS - now_ms % DAY_MS
