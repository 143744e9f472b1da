"""Single facts that must survive a restart: connection count, which load flags work, digests of files."""

from agent.store.database import Database


class Facts:
    """Access to the table `facts`: text by name."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, name: str) -> str | None:
        """The value, or None."""
        rows = self._db.read("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    async def put(self, name: str, value: str) -> None:
        """Stores a value in place of the old one."""
        await self._db.write(
            lambda db: db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value)).rowcount
        )

    async def count_up(self, name: str, at_least: int = 1) -> int:
        """Adds one to a number, or more when that is below `at_least`, and returns it."""
        number = max(at_least, int(self.get(name) or 0) + 1)
        await self.put(name, str(number))
        return number
