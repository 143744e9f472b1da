"""The store: what a write returned for is on disk, what fails stays alone, damage and full disks are survived."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.errors import StoreError
from agent.store.database import FILE, Database
from agent.store.facts import Facts
from agent.store.journal import Entry, Journal
from agent.store.outbox import Letter, Outbox, Priority

QUOTA = 1 << 20


def play(folder: Path, scene: Callable[[Database], Awaitable[None]]) -> None:
    """Runs a scene on a database in `folder`, and closes it."""

    async def run() -> None:
        database = Database(folder)
        try:
            await scene(database)
        finally:
            database.close()

    asyncio.run(run())


def entry(number: int, *, client: str = "c", deadline_ms: int = 2000) -> Entry:
    """A request as the journal keeps it."""
    return Entry(
        client=client, id=f"r{number}", digest=b"d" * 32, plain=False, body=b'{"prompt":"x"}', correlation=None,
        delivery=number, arrived_ms=1000, deadline_ms=deadline_ms,
    )  # fmt: skip


def test_a_write_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    """Another connection sees it at once, and the file is flushed at every commit."""

    async def scene(database: Database) -> None:
        await Facts(database).put("a", "1")
        other = sqlite3.connect(tmp_path / FILE)
        assert other.execute("SELECT value FROM facts WHERE name = 'a'").fetchone() == ("1",)
        other.close()
        full = 2
        assert await database.write(lambda db: db.execute("PRAGMA synchronous").fetchone()[0]) == full
        assert database.read("PRAGMA journal_mode")[0][0] == "wal"

    play(tmp_path, scene)


def test_a_start_loads_the_migrations_only_when_they_are_others(tmp_path: Path) -> None:
    """Loading what applies them would be a quarter of every start."""
    look = (
        "import sys, pathlib; from agent.store.database import Database\n"
        f"Database(pathlib.Path({str(tmp_path)!r})).close(); print('sqlite_utils' in sys.modules)"
    )

    def loads() -> str:
        return subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip()

    assert [loads(), loads()] == ["True", "False"]
    older = sqlite3.connect(tmp_path / FILE)
    older.execute("PRAGMA user_version = 1")
    older.close()
    assert [loads(), loads()] == ["True", "False"]


def test_nobody_else_may_read_the_prompts(tmp_path: Path) -> None:
    """The database belongs to its user alone."""
    folder = tmp_path / "state"
    Database(folder).close()
    assert (folder.stat().st_mode & 0o077, (folder / FILE).stat().st_mode & 0o077) == (0, 0)


def test_a_write_that_fails_leaves_the_others_of_its_group(tmp_path: Path) -> None:
    """Writes that are committed together fail one by one."""

    async def scene(database: Database) -> None:
        facts = Facts(database)
        bad = database.write(lambda db: db.execute("INSERT INTO nothing VALUES (1)"))
        results = await asyncio.gather(facts.put("a", "1"), bad, facts.put("b", "2"), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), StoreError, type(None)]
        assert (facts.get("a"), facts.get("b")) == ("1", "2")

    play(tmp_path, scene)


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """Migrations run once; what was stored is there."""

    async def write(database: Database) -> None:
        await Facts(database).put("a", "1")

    async def read(database: Database) -> None:
        assert Facts(database).get("a") == "1"

    play(tmp_path, write)
    play(tmp_path, read)


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    """A device comes up again by itself, and the damaged file is kept for whoever wants to look."""
    (tmp_path / FILE).write_bytes(damage)

    async def scene(database: Database) -> None:
        await Facts(database).put("a", "1")

    play(tmp_path, scene)
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes() == damage


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    """A file where the directory should be is one sentence with its path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot use the database .*file"):
        Database(tmp_path / "file")


def test_a_full_disk_fails_the_write_and_nothing_else(tmp_path: Path) -> None:
    """A write that finds no space raises, reading goes on, and with space again writing does too."""

    async def scene(database: Database) -> None:
        facts = Facts(database)
        await facts.put("a", "1")
        pages = await database.write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await database.write(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0])
        with pytest.raises(StoreError, match="free some disk space"):
            await facts.put("big", "x" * 1_000_000)
        assert facts.get("a") == "1"
        await database.write(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone()[0])
        await facts.put("b", "2")

    play(tmp_path, scene)


def test_a_final_and_its_letter_are_stored_together(tmp_path: Path) -> None:
    """An ended request has no body any more, its final, and a letter on the way."""

    async def scene(database: Database) -> None:
        journal, outbox = Journal(database), Outbox(database, QUOTA)
        key = await journal.add(entry(1))
        keys = await journal.end(key, 200, b"final", 1500, [Letter("t", b"final")])
        found = journal.find("c", "r1")
        assert found is not None
        assert (found.status, found.final) == (200, b"final")
        assert [(k, letter.payload) for k, letter in outbox.next((-1, -1), 9)] == [(keys[0], b"final")]
        assert database.read("SELECT body FROM requests")[0]["body"] is None
        assert await journal.take_up() == []
        outbox.close()

    play(tmp_path, scene)


def test_open_requests_are_taken_up_in_order_and_counted(tmp_path: Path) -> None:
    """After a stop, what is open comes back oldest first, with one more start each time."""

    async def scene(database: Database) -> None:
        journal = Journal(database)
        for number in (3, 1, 2):
            await journal.add(entry(number))
        assert [(e.id, e.starts) for e in await journal.take_up()] == [("r3", 2), ("r1", 2), ("r2", 2)]
        assert {e.starts for e in await journal.take_up()} == {3}

    play(tmp_path, scene)


def test_a_purge_keeps_what_a_retry_may_ask_for(tmp_path: Path) -> None:
    """Forgotten is only what has ended, long enough ago, and is past its deadline."""

    async def scene(database: Database) -> None:
        journal = Journal(database)
        for number, deadline_ms in ((1, 2000), (2, 99_000), (3, 2000)):
            key = await journal.add(entry(number, deadline_ms=deadline_ms))
            if number < 3:
                await journal.end(key, 200, b"f", 1500, [])
        assert await journal.purge(now_ms=1900, keep_ms=1000) == 0
        assert await journal.purge(now_ms=50_000, keep_ms=1000) == 1
        assert [journal.find("c", f"r{n}") is not None for n in (1, 2, 3)] == [False, True, True]

    play(tmp_path, scene)


def test_the_outbox_keeps_finals_when_it_is_full(tmp_path: Path) -> None:
    """Over its quota the oldest events go; finals stay, and a quota full of them is reported."""

    async def scene(database: Database) -> None:
        outbox = Outbox(database, 10_000)
        for number in range(8):
            await outbox.add(Letter(f"e{number}", b"x" * 2000, priority=Priority.EVENT))
        assert [letter.topic for _, letter in outbox.next((-1, -1), 99)] == ["e4", "e5", "e6", "e7"]
        for number in range(6):
            await outbox.add(Letter(f"f{number}", b"x" * 2000))
        assert [letter.topic for _, letter in outbox.next((-1, -1), 99)] == [f"f{n}" for n in range(6)]
        assert outbox.is_full()
        outbox.close()

    play(tmp_path, scene)


def test_a_delivered_letter_is_not_sent_again(tmp_path: Path) -> None:
    """A receipt holds across a kill, before and after its row is deleted, and hits no later letter."""

    async def deliver(database: Database) -> None:
        outbox = Outbox(database, QUOTA)
        keys = [await outbox.add(Letter(f"t{n}", b"x")) for n in range(3)]
        outbox.note_delivered(keys[1])
        assert [letter.topic for _, letter in outbox.next((-1, -1), 2)] == ["t0", "t2"]
        outbox.close()  # without `forget_delivered`: as after a kill

    async def again(database: Database) -> None:
        outbox = Outbox(database, QUOTA)
        assert [letter.topic for _, letter in outbox.next((-1, -1), 9)] == ["t0", "t2"]
        await outbox.forget_delivered()
        assert (tmp_path / "receipts").stat().st_size == 0
        await outbox.add(Letter("t3", b"x"))
        assert [letter.topic for _, letter in outbox.next((-1, -1), 9)] == ["t0", "t2", "t3"]
        outbox.close()

    play(tmp_path, deliver)
    play(tmp_path, again)


VICTIM = """
import asyncio, sys
from pathlib import Path
from agent.store.database import Database
from agent.store.journal import Entry, Journal
from agent.store.outbox import Letter

async def main():
    journal = Journal(Database(Path(sys.argv[1])))
    first = int(sys.argv[2])
    async def one(number):
        key = await journal.add(Entry(client="c", id=f"r{number}", digest=b"d", plain=False, body=b"{}",
            correlation=None, delivery=None, arrived_ms=1, deadline_ms=2))
        print("added", number, flush=True)
        await journal.end(key, 200, b"f", 1, [Letter(f"r{number}", b"f")])
        print("ended", number, flush=True)
    for number in range(first, first + 100_000, 4):
        await asyncio.gather(*(one(number + i) for i in range(4)))

asyncio.run(main())
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """After kill -9: what was said to be added or ended is, and a request is ended exactly if its letter is there."""
    random_ = random.Random(1)
    confirmed: dict[str, set[str]] = {"added": set(), "ended": set()}
    for round_ in range(8):
        command = [sys.executable, "-c", VICTIM, str(tmp_path), str(round_ * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            for _ in range(random_.randint(1, 120)):
                what, number = victim.stdout.readline().split()
                confirmed[what].add(f"r{number}")
            os.kill(victim.pid, signal.SIGKILL)
    database = Database(tmp_path)
    ended = {row["id"] for row in database.read("SELECT id FROM requests WHERE status IS NOT NULL")}
    known = {row["id"] for row in database.read("SELECT id FROM requests")}
    letters = [row["topic"] for row in database.read("SELECT topic FROM outbox")]
    database.close()
    assert confirmed["added"] <= known
    assert confirmed["ended"] <= ended
    assert sorted(letters) == sorted(ended)
