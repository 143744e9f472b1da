"""The journal of requests: what was accepted, and how it ended.

A request is `open` from its row until its final is stored, in one transaction with the final's place in the
outbox. So after a crash every open row is run again, and every ended one has its answer on the way.
"""

import sqlite3

import msgspec

from agent.store.database import Database
from agent.store.outbox import Letter, insert_letter


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the journal keeps it."""

    client: str
    id: str
    digest: bytes
    plain: bool
    body: bytes
    correlation: bytes | None
    delivery: int | None
    arrived_ms: int
    deadline_ms: int
    key: int = 0
    starts: int = 1


class Ended(msgspec.Struct, frozen=True):
    """What is known of a request that has a row."""

    digest: bytes
    status: int | None
    final: bytes | None


class Journal:
    """Access to the table `requests`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, entry: Entry) -> int:
        """Stores a request; returns its key."""

        def insert(db: sqlite3.Connection) -> int:
            cursor = db.execute(
                "INSERT INTO requests (client, id, digest, plain, body, correlation, delivery, arrived_ms, deadline_ms,"
                " starts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.client, entry.id, entry.digest, entry.plain, entry.body, entry.correlation, entry.delivery,
                    entry.arrived_ms, entry.deadline_ms, entry.starts,
                ),
            )  # fmt: skip
            return int(cursor.lastrowid or 0)

        return await self._db.write(insert)

    async def end(self, key: int, status: int, final: bytes, ended_ms: int, letters: list[Letter]) -> list[int]:
        """Stores how a request ended and puts its answer into the outbox, or neither. Returns the letters' keys."""

        def update(db: sqlite3.Connection) -> list[int]:
            db.execute(
                "UPDATE requests SET status = ?, final = ?, ended_ms = ?, body = NULL WHERE key = ?",
                (status, final, ended_ms, key),
            )
            return [insert_letter(db, letter) for letter in letters]

        return await self._db.write(update)

    def find(self, client: str, request_id: str) -> Ended | None:
        """The row of a request, or None."""
        rows = self._db.read(
            "SELECT digest, status, final FROM requests WHERE client = ? AND id = ?", client, request_id
        )
        return Ended(rows[0]["digest"], rows[0]["status"], rows[0]["final"]) if rows else None

    def find_redelivered(self, client: str, digest: bytes, delivery: int) -> str | None:
        """The id that was made for a prompt without one, when the broker delivers it a second time."""
        rows = self._db.read(
            "SELECT id FROM requests WHERE client = ? AND digest = ? AND delivery = ? ORDER BY key DESC LIMIT 1",
            client, digest, delivery,
        )  # fmt: skip
        return str(rows[0]["id"]) if rows else None

    async def take_up(self) -> list[Entry]:
        """All open requests, oldest first, each marked as started once more."""

        def update(db: sqlite3.Connection) -> list[Entry]:
            db.execute("UPDATE requests SET starts = starts + 1 WHERE status IS NULL")
            rows = db.execute("SELECT * FROM requests WHERE status IS NULL ORDER BY key")
            return [msgspec.convert(dict(row), Entry, strict=False) for row in rows]

        return await self._db.write(update)

    async def purge(self, now_ms: int, keep_ms: int) -> int:
        """Forgets ended requests that no retry can ask for any more. Returns how many."""

        def delete(db: sqlite3.Connection) -> int:
            return db.execute(
                "DELETE FROM requests WHERE status IS NOT NULL AND ended_ms < ? AND deadline_ms < ?",
                (now_ms - keep_ms, now_ms),
            ).rowcount

        return await self._db.write(delete)
