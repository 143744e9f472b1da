import asyncio
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from agent.update.origin import Origin
from agent.update.pace import Closed, Pace, Spent
from agent.update.reader import Busy, Gone, SourceError, Unreachable, Untrue
from tests.fakes.release_server import ReleaseServer

CONTENT = bytes(range(256)) * 400
PATH = "objects/aa/object"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReleaseServer]:
    """A server of one object and one other file."""
    for path in (PATH, "other"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(CONTENT)
    running = ReleaseServer(tmp_path)
    yield running
    running.close()


def get(origin: Origin, start: int = 0, end: int = len(CONTENT), path: str = PATH) -> bytes:
    """Part of the object, over a connection of its own."""

    async def ask() -> bytes:
        came = bytearray()
        connection = await origin.open()
        try:
            await connection.part(path, start, end, len(CONTENT), came.extend)
        finally:
            connection.close()
        return bytes(came)

    return asyncio.run(ask())


def test_parts_are_what_was_asked_for_over_one_connection(server: ReleaseServer) -> None:
    """The connection is used again, for parts and for whole files."""

    async def ask() -> tuple[bytes, bytes]:
        came = bytearray()
        connection = await Origin(server.url).open()
        for start in range(0, len(CONTENT), 30_000):
            await connection.part(PATH, start, min(start + 30_000, len(CONTENT)), len(CONTENT), came.extend)
            assert connection.is_open
        whole = await connection.whole("other", len(CONTENT))
        connection.close()
        return bytes(came), whole

    assert asyncio.run(ask()) == (CONTENT, CONTENT)


@pytest.mark.parametrize(
    ("faults", "expected", "why"),
    [
        ({"wrong_range": True}, Untrue, "range"),
        ({"endless": True}, Untrue, "more than"),
        ({"encoding": "gzip"}, Untrue, "gzip"),
        ({"redirect_to": "http://127.0.0.2:1/"}, Untrue, "redirects to 127.0.0.2"),
        ({"redirect_to": "http://["}, Untrue, "is not HTTP"),
        ({"redirect_to": "/with a space"}, Untrue, "is not HTTP"),
        ({"redirect_to": "/\xe4"}, Untrue, "is not HTTP"),
        ({"silent": True}, Untrue, "too slow"),
        ({"bytes_per_s": 20_000.0}, Untrue, "too slow"),
        ({"reset_after_bytes": 40_000}, Unreachable, "broke|hung up"),
        ({"every_status": 404}, Gone, "404"),
        ({"every_status": 403}, Gone, "403"),
        ({"every_status": 500}, Unreachable, "500"),
        ({"every_status": 503}, Busy, "503"),
    ],
    ids=str,
)
def test_a_server_that_does_something_else_is_told_by_how(
    server: ReleaseServer, faults: dict[str, Any], expected: type[SourceError], why: str
) -> None:
    """And no more of it is read than was asked for."""
    for name, value in faults.items():
        setattr(server.faults, name, value)
    origin = Origin(server.url, patience_s=0.4, min_bytes_s=10**6)
    with pytest.raises(expected, match=why):
        get(origin, 1000, 90_000)


@pytest.mark.parametrize(
    ("text", "after_ms"),
    [
        ("", 5_000),
        ("7", 7_000),
        (formatdate(2**33, usegmt=True), 24 * 3600 * 1000),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1_000),
        ("99999999999999", 5_000),
        ("999999999", 24 * 3600 * 1000),
        ("yesterday", 5_000),
    ],
)
def test_retry_after_is_obeyed_within_reason(server: ReleaseServer, text: str, after_ms: int) -> None:
    """A number of seconds, or a date, which counts from the server's own date. Never more than a day."""
    server.faults.every_status = 429
    server.faults.headers = {"retry-after": text} if text else {}
    with pytest.raises(Busy) as busy:
        get(Origin(server.url))
    assert busy.value.after_ms == after_ms


def test_redirects_within_the_server_are_followed_a_few_times(server: ReleaseServer) -> None:
    """Another path is no other origin; a circle ends."""
    server.faults.redirect_to = server.url
    with pytest.raises(Untrue, match="redirects more than"):
        get(Origin(server.url))


def test_nobody_there_is_unreachable() -> None:
    """A closed port, and a name that does not exist."""
    for url in ("http://127.0.0.1:1/", "http://does-not-exist.invalid/"):
        with pytest.raises(Unreachable, match="cannot be reached"):
            get(Origin(url, patience_s=5))


def test_a_link_is_used_no_more_than_is_allowed(server: ReleaseServer) -> None:
    """The budget ends it, and so does the window."""
    pace = Pace(left_bytes=50_000)
    with pytest.raises(Spent):
        get(Origin(server.url, pace=pace))
    assert 50_000 <= pace.came_bytes < 50_000 + 64 * 1024
    with pytest.raises(Closed):
        get(Origin(server.url, pace=Pace(closes_at_s=0.0)))


def test_a_rate_is_kept_without_taking_the_server_for_slow(
    server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is waited is what the bytes are worth, less the burst, and does not count as the server's slowness."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("agent.update.pace.asyncio.sleep", sleep)
    monkeypatch.setattr("agent.update.pace.time.monotonic", lambda: 1000.0 + sum(slept))
    get(Origin(server.url, pace=Pace(10_000.0), patience_s=5, min_bytes_s=50_000))
    assert sum(slept) == pytest.approx(len(CONTENT) / 10_000 - 0.25)
