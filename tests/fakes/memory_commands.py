"""The table of commands in memory; it outlives the one who writes to it."""

from agent.store.commands import Commands, Stored
from agent.store.outbox import Letter


class MemoryCommands(Commands):
    """Passes for `Commands`."""

    def __init__(self) -> None:
        self.rows: dict[str, Stored] = {}
        self.outbox: list[Letter] = []

    def find(self, command_id: str) -> Stored | None:
        """A command that was begun before."""
        return self.rows.get(command_id)

    def unanswered(self) -> list[Stored]:
        """All that have no answer."""
        return [row for row in self.rows.values() if row.answer is None]

    async def begin(self, command_id: str, op: str, exp_ms: int) -> bool:
        """Notes that a command is about to run; returns whether it is a new one."""
        if command_id in self.rows:
            return False
        self.rows[command_id] = Stored(command_id, op, None)
        return True

    async def end(self, command_id: str, answer: Letter) -> int:
        """Stores the answer and puts it into the outbox."""
        self.rows[command_id] = Stored(command_id, self.rows[command_id].op, answer)
        self.outbox.append(answer)
        return len(self.outbox)
