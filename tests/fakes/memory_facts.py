"""Facts in memory that outlive the one who stores them, and that can end him at any write."""

from agent.store.facts import Facts


class Killed(BaseException):
    """As by a kill -9: nothing catches it."""


class MemoryFacts(Facts):
    """Passes for `Facts`; `kill_at` is the write, counted from 1, at which the writer dies, before or after it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.num_writes = 0
        self.kill_at = 0
        self.kill_after = False

    def get(self, name: str) -> str | None:
        """The value, or None."""
        return self.values.get(name)

    async def put(self, name: str, value: str) -> None:
        """Stores a value, unless this is the end."""
        self.num_writes += 1
        if self.num_writes == self.kill_at and not self.kill_after:
            raise Killed
        self.values[name] = value
        if self.num_writes == self.kill_at:
            raise Killed
