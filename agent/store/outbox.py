"""The outbox: messages that must reach the broker, kept on disk until it has them."""

import sqlite3
from enum import IntEnum

import msgspec

from agent.store.database import Database
from contract.mqtt5 import Properties


class Priority(IntEnum):
    """What goes first, and what is dropped last when the quota is full."""

    FINAL = 0
    EVENT = 5


class Letter(msgspec.Struct, frozen=True):
    """One message for the broker."""

    topic: str
    payload: bytes
    properties: Properties = Properties()
    priority: Priority = Priority.FINAL

    @property
    def size(self) -> int:
        """Bytes that count against the quota."""
        return len(self.topic) + len(self.payload) + 64


def insert_letter(db: sqlite3.Connection, letter: Letter) -> int:
    """Puts a letter into the outbox inside the caller's transaction; returns its key."""
    cursor = db.execute(
        "INSERT INTO outbox (priority, topic, payload, properties, bytes) VALUES (?, ?, ?, ?, ?)",
        (letter.priority, letter.topic, letter.payload, msgspec.msgpack.encode(letter.properties), letter.size),
    )
    return int(cursor.lastrowid or 0)


class Outbox:
    """Access to the table `outbox`."""

    def __init__(self, database: Database, quota_bytes: int) -> None:
        self._db = database
        self._quota_bytes = quota_bytes

    def is_full(self) -> bool:
        """Whether finals alone fill the quota, so that no new request may be taken."""
        return self._bytes(Priority.FINAL) >= self._quota_bytes

    def waiting(self) -> int:
        """Messages in the outbox."""
        return int(self._db.read("SELECT count(*) FROM outbox")[0][0])

    async def add(self, letter: Letter) -> int:
        """Stores a letter and returns its key. Makes room by dropping the oldest letters of least priority."""

        def insert(db: sqlite3.Connection) -> int:
            key = insert_letter(db, letter)
            total = int(db.execute("SELECT coalesce(sum(bytes), 0) FROM outbox").fetchone()[0])
            if total > self._quota_bytes:
                _drop(db, total - self._quota_bytes)
            return key

        return await self._db.write(insert)

    def next(self, after: tuple[int, int], count: int) -> list[tuple[int, Letter]]:
        """The next letters behind (priority, key) in sending order, with their keys."""
        rows = self._db.read(
            "SELECT * FROM outbox WHERE (priority, key) > (?, ?) ORDER BY priority, key LIMIT ?", *after, count
        )
        return [
            (
                row["key"],
                Letter(
                    row["topic"],
                    row["payload"],
                    msgspec.msgpack.decode(row["properties"], type=Properties),
                    Priority(row["priority"]),
                ),
            )
            for row in rows
        ]

    async def remove(self, key: int) -> None:
        """Forgets a letter that the broker has."""
        await self._db.write(lambda db: db.execute("DELETE FROM outbox WHERE key = ?", (key,)).rowcount)

    def _bytes(self, priority: Priority) -> int:
        return int(self._db.read("SELECT coalesce(sum(bytes), 0) FROM outbox WHERE priority = ?", priority)[0][0])


def _drop(db: sqlite3.Connection, excess_bytes: int) -> None:
    rows = db.execute(
        "SELECT key, bytes FROM outbox WHERE priority > ? ORDER BY priority DESC, key", (Priority.FINAL,)
    ).fetchall()
    for row in rows:
        if excess_bytes <= 0:
            return
        db.execute("DELETE FROM outbox WHERE key = ?", (row["key"],))
        excess_bytes -= row["bytes"]
