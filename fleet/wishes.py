"""What is wished of every node: the newest document of each, in memory and in the database.

The text that was stored is the text that is signed, each time it is published: a document is never written again from
its fields, because a newer version of this program would write them differently, and one revision is one text.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select

from contract.limits import MAX_INTEGER
from contract.steering import Desired
from fleet.database.tables import desired


class Held(Struct, frozen=True, gc=False):
    """The newest document of a node."""

    rev: int
    text: bytes

    @property
    def document(self) -> Desired:
        """What it says."""
        return msgspec.json.decode(self.text, type=Desired)


class Wishes:
    """The newest document of every node. One thread writes at a time, any reads."""

    def __init__(self, floor: int = 0) -> None:
        """Revisions up to `floor` may have been given out by a database that was lost."""
        self.floor = floor
        self._held: dict[str, Held] = {}
        self._floors: dict[str, int] = {}  # revisions seen elsewhere that are newer than ours

    def load(self, connection: Connection) -> None:
        """Reads all of them."""
        for node, rev, text in connection.execute(select(desired).order_by(desired.c.rev)).yield_per(1000):
            self._held[node] = Held(rev, text.encode())

    def held(self, node: str) -> Held | None:
        """The newest document of a node."""
        return self._held.get(node)

    def all(self) -> list[tuple[str, Held]]:
        """Those of all nodes."""
        return list(self._held.items())

    def rev(self, node: str) -> int | None:
        """The newest revision of a node."""
        held = self._held.get(node)
        return held.rev if held else None

    def next_rev(self, node: str) -> int:
        """A revision that was never given to a node, as far as anything that is left of it shows."""
        return max(self.rev(node) or 0, self._floors.get(node, 0), self.floor) + 1

    def take_floor(self, node: str, rev: int) -> bool:
        """A revision was seen, on the broker or in a node's report.

        Returns:
            Whether it is newer than ours, which means that the database was set back.
        """
        if rev > MAX_INTEGER or rev <= (self.rev(node) or 0):
            return False
        self._floors[node] = max(rev, self._floors.get(node, 0))
        return True

    def write(self, connection: Connection, documents: Iterable[Desired]) -> dict[str, Held]:
        """Writes new documents in place of the old ones, as a part of the caller's transaction.

        Returns:
            What `hold` wants once that is on disk.

        Raises:
            sqlalchemy.exc.IntegrityError: a revision was given out already, by another controller on this database.
        """
        made = {one.node: Held(one.rev, msgspec.json.encode(one, order="deterministic")) for one in documents}
        if made:
            rows = [{"node": node, "rev": held.rev, "text": held.text.decode()} for node, held in made.items()]
            connection.execute(insert(desired), rows)
            old = delete(desired).where(desired.c.node == bindparam("of"), desired.c.rev < bindparam("newest"))
            connection.execute(old, [{"of": row["node"], "newest": row["rev"]} for row in rows])
        return made

    def drop(self, connection: Connection, node: str) -> None:
        """Nothing is wished of a node any more. One of its name that comes later says which revision it knows."""
        connection.execute(delete(desired).where(desired.c.node == node))
        self._held.pop(node, None)

    def hold(self, made: dict[str, Held]) -> None:
        """From now on these are the newest."""
        self._held |= made
        for node in made:
            self._floors.pop(node, None)
