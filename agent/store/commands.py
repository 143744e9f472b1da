"""Commands of the controller: which were begun, and how they were answered, so that each is run once."""

import sqlite3

import msgspec

from agent.store.database import Database
from agent.store.outbox import Letter, insert_letter


class Stored(msgspec.Struct, frozen=True):
    """A command that is known. `answer` is None while it runs, or when the agent ended while it ran."""

    id: str
    op: str
    answer: Letter | None


class Commands:
    """Access to the table `commands`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, command_id: str) -> Stored | None:
        """A command that was begun before."""
        rows = self._db.read("SELECT id, op, answer FROM commands WHERE id = ?", command_id)
        return _stored(rows[0]) if rows else None

    def unanswered(self) -> list[Stored]:
        """All that have no answer."""
        return [_stored(row) for row in self._db.read("SELECT id, op, answer FROM commands WHERE answer IS NULL")]

    async def begin(self, command_id: str, op: str, exp_ms: int) -> bool:
        """Notes that a command is about to run; returns whether it is a new one.

        Raises:
            StoreError: it cannot be noted, and so must not run.
        """
        num_rows = await self._db.write(
            lambda db: (
                db.execute(
                    "INSERT OR IGNORE INTO commands (id, op, exp_ms) VALUES (?, ?, ?)", (command_id, op, exp_ms)
                ).rowcount
            )
        )
        return num_rows == 1

    async def end(self, command_id: str, answer: Letter) -> int:
        """Stores the answer and puts it into the outbox, in one transaction; returns its key there.

        Raises:
            StoreError: it cannot be stored.
        """

        def store(db: sqlite3.Connection) -> int:
            db.execute("UPDATE commands SET answer = ? WHERE id = ?", (msgspec.msgpack.encode(answer), command_id))
            return insert_letter(db, answer)

        return await self._db.write(store)

    async def purge(self, before_ms: int) -> None:
        """Forgets commands that expired before a time.

        Raises:
            StoreError: they cannot be deleted.
        """
        await self._db.write(lambda db: db.execute("DELETE FROM commands WHERE exp_ms < ?", (before_ms,)).rowcount)


def _stored(row: sqlite3.Row) -> Stored:
    answer = row["answer"]
    return Stored(row["id"], row["op"], None if answer is None else msgspec.msgpack.decode(answer, type=Letter))
