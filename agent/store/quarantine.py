"""What is in quarantine, on disk: so that a restart does not give it another engine to kill."""

import sqlite3

import msgspec

from agent.quarantine import Item
from agent.store.database import Database


class Quarantined:
    """Access to the table `quarantine`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def items(self) -> list[Item]:
        """Everything, oldest first."""
        rows = self._db.read("SELECT kind, id, since_ms, death, grammar, adapter FROM quarantine ORDER BY key")
        return [msgspec.convert(dict(row), Item) for row in rows]

    async def keep(self, items: list[Item]) -> None:
        """Stores these items in place of what there was."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM quarantine")
            db.executemany(
                "INSERT INTO quarantine (kind, id, since_ms, death, grammar, adapter) VALUES (?, ?, ?, ?, ?, ?)",
                [(item.kind, item.id, item.since_ms, item.death, item.grammar, item.adapter) for item in items],
            )

        await self._db.write(write)
