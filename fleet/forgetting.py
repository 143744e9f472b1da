"""Taking a node out of the fleet for good: what it said last, what the broker keeps of it, what was wished of it."""

from collections.abc import Callable

from contract.topics import Topic
from fleet.database import heard
from fleet.database.identities import write_audit
from fleet.database.store import Database
from fleet.errors import ConflictError, NotFoundError, UnreachableError
from fleet.inventory import Inventory
from fleet.rights import EMPTIED
from fleet.steering import Steering


class Forgetting:
    """Forgets nodes that cannot come back. Its events and what it measured end with their time."""

    def __init__(
        self,
        database: Database,
        inventory: Inventory,
        steering: Steering,
        post: Callable[[Topic, bytes], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._steering = steering
        self._post = post
        self._now_ms = now_ms

    def forget(self, node: str, actor: str) -> None:
        """Forgets a node that is revoked, or that never enrolled here and is not there.

        Raises:
            NotFoundError: there is no such node.
            ConflictError: it may come, or is there.
            UnreachableError: the broker, which keeps what it said last, is away.
        """
        if not self._inventory.knows(node):
            raise NotFoundError(f"cannot find node {node!r}: `fleet nodes` lists those that there are")
        with self._database.read() as connection:
            identity = heard.identity_of(connection, node)
        if identity is not None and identity.revoked_ms is None:
            raise ConflictError(f"cannot forget {node!r}: it may come at any time; `fleet revoke {node}` first")
        if identity is None and self._inventory.is_online(node):
            raise ConflictError(f"cannot forget {node!r}: it is there; have it stopped first")
        # The broker first: what it keeps would bring the node back.
        if not all(self._post(kind(node), b"") for kind in EMPTIED):
            raise UnreachableError(
                f"cannot forget {node!r}: the broker is away, and keeps what it said; start it first"
            )
        self._steering.drop(node)
        with self._database.write() as connection:
            heard.forget_nodes(connection, [node])
            write_audit(connection, self._now_ms(), actor, "forget", node)
        self._inventory.nodes.pop(node, None)
        self._inventory.announce()
