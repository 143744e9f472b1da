"""The outbox: messages that must reach the broker, kept on disk until it has them.

That the broker has a letter is noted in a small file first, with one write that a kill of the daemon cannot undo; the
rows are deleted in groups later. So a letter is sent twice only when the daemon dies in the instant between the
broker's acknowledgement and that write, or with the power, and a delivered letter costs the disk no flush of its own.
"""

import contextlib
import os
import sqlite3
import struct
from enum import IntEnum

import msgspec

from agent.store.database import Database
from contract.mqtt5 import Properties

_RECEIPT = struct.Struct("<q")


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
        self._receipts = os.open(database.path.with_name("receipts"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._receipts).st_size
        noted = os.pread(self._receipts, size - size % _RECEIPT.size, 0)
        # Receipts of letters that are not there belong to an older database, whose keys a new one uses again.
        here = {int(row["key"]) for row in database.read("SELECT key FROM outbox")}
        self._delivered = {key for (key,) in _RECEIPT.iter_unpack(noted)} & here
        if not self._delivered:
            os.ftruncate(self._receipts, 0)

    def is_full(self) -> bool:
        """Whether finals alone fill the quota, so that no new request may be taken."""
        return self._bytes(Priority.FINAL) >= self._quota_bytes

    def waiting(self) -> int:
        """Messages in the outbox."""
        return int(self._db.read("SELECT count(*) FROM outbox")[0][0]) - len(self._delivered)

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
        """The next letters behind (priority, key) in sending order, with their keys; delivered ones left out."""
        rows = self._db.read(
            "SELECT * FROM outbox WHERE (priority, key) > (?, ?) ORDER BY priority, key LIMIT ?",
            *after,
            count + len(self._delivered),
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
            if row["key"] not in self._delivered
        ]

    def note_delivered(self, key: int) -> None:
        """Notes that the broker has a letter; its row goes with the next `forget_delivered`."""
        self._delivered.add(key)
        with contextlib.suppress(OSError):  # no space: then only a restart before the row is gone sends it again
            os.write(self._receipts, _RECEIPT.pack(key))

    async def forget_delivered(self) -> None:
        """Deletes the rows of all letters that the broker has, also of those noted before the last stop.

        Raises:
            StoreError: they could not be deleted; they stay noted.
        """
        keys = list(self._delivered)
        if not keys:
            return
        await self._db.write(
            lambda db: db.executemany("DELETE FROM outbox WHERE key = ?", [(k,) for k in keys]).rowcount
        )
        self._delivered.difference_update(keys)
        if not self._delivered:
            os.ftruncate(self._receipts, 0)

    def close(self) -> None:
        """Closes the file of receipts."""
        os.close(self._receipts)

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
