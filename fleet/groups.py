"""Groups: saved queries, and for some a policy that holds for the nodes that fit.

Who is in a group with a policy follows from the nodes' cards alone. A query that asks for what changes by itself
(`online`, `rev`) is good for looking, but a policy on it would move nodes in and out for ever.
"""

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select

from contract.steering import MAX_GROUPS, Policy
from fleet.database.heard import put
from fleet.database.tables import node_groups
from fleet.errors import NotFoundError, UsageError
from fleet.fields import Record
from fleet.matching import fits
from fleet.query import And, Compare, Not, Or, Query, parse

MOMENTARY = ("state", "last_seen", "active", "phase", "rev")


class Saved(Struct, frozen=True, kw_only=True):
    """A group as it is kept. Of a deleted one (no query) the revision stays, because nodes remember it."""

    name: str
    query: str | None
    rev: int = 0
    policy: bytes | None = None  # the text that is signed

    @property
    def tree(self) -> Query:
        """Its query, read."""
        return parse(self.query or "")


class Groups:
    """All groups. One thread writes at a time, any reads."""

    def __init__(self, floor: int = 0) -> None:
        """Revisions up to `floor` may have been given out by a database that was lost."""
        self._floor = floor
        self._saved: dict[str, Saved] = {}
        self._steering: tuple[tuple[str, Query], ...] = ()
        self._floors: dict[str, int] = {}

    def load(self, connection: Connection) -> None:
        """Reads all of them."""
        for name, query, rev, policy in connection.execute(select(node_groups)):
            self._saved[name] = Saved(name=name, query=query, rev=rev, policy=policy.encode() if policy else None)
        self._sort()

    def all(self) -> list[Saved]:
        """Those that are not deleted, by name."""
        return [saved for _, saved in sorted(self._saved.items()) if saved.query is not None]

    def find(self, name: str) -> Saved:
        """A group that is not deleted.

        Raises:
            NotFoundError: there is none of this name.
        """
        saved = self._saved.get(name)
        if saved is None or saved.query is None:
            known = ", ".join(one.name for one in self.all()) or "none"
            raise NotFoundError(f"cannot find group {name!r}: there are {known}")
        return saved

    def next_rev(self, name: str) -> int:
        """A revision that no policy of this group ever had, as far as anything that is left shows."""
        saved = self._saved.get(name)
        return max(saved.rev if saved else 0, self._floors.get(name, 0), self._floor) + 1

    def last(self, name: str) -> Saved:
        """What is kept of a name, deleted or not; a blank one for a new name."""
        return self._saved.get(name) or Saved(name=name, query=None)

    def take_floor(self, name: str, rev: int) -> None:
        """A revision of a policy was seen on the broker."""
        self._floors[name] = max(rev, self._floors.get(name, 0))

    def write(self, connection: Connection, saved: Saved) -> None:
        """Writes a group, as a part of the caller's transaction."""
        text = saved.policy.decode() if saved.policy else None
        put(connection, node_groups, [{"name": saved.name, "query": saved.query, "rev": saved.rev, "policy": text}])

    def hold(self, saved: Saved) -> None:
        """From now on this holds."""
        self._saved[saved.name] = saved
        self._sort()

    def of(self, record: Record) -> list[str]:
        """The groups with a policy into which a node fits, by name."""
        return [name for name, tree in self._steering if fits(tree, record, 0)][:MAX_GROUPS]

    def _sort(self) -> None:
        self._steering = tuple((one.name, one.tree) for one in self.all() if one.policy is not None)


def policy_of(saved: Saved) -> Policy | None:
    """The policy of a group."""
    return msgspec.json.decode(saved.policy, type=Policy) if saved.policy else None


def check_steers(name: str, tree: Query) -> None:
    """Whether a query can decide for whom a policy holds.

    Raises:
        UsageError: it asks for something that changes by itself.
    """
    if asked := sorted(_fields(tree) & set(MOMENTARY)):
        raise UsageError(
            f"cannot give group {name!r} a policy: its query asks for {', '.join(asked)}, which changes from moment to "
            "moment; ask for what a node is (site, label, model, ram_mib, …)"
        )


def _fields(tree: Query) -> set[str]:
    match tree:
        case And(terms) | Or(terms):
            return set().union(*map(_fields, terms))
        case Not(term):
            return _fields(term)
        case Compare(field):
            return {field}
