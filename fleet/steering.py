"""What the controller wishes of nodes and groups: made, stored, signed, published, and published again.

What always holds:

- A revision is on disk, with its text, before it is signed or published, and is never given out again.
- A new revision is made only when the content changes, when the document nears its end, or when the database was set
  back, so that nodes know newer ones.
- What the broker or a node has missed is published again: at each connection, and when a node reports an older one, or
  at its heartbeat has not reported a newer one.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from contract.enrolment import DAY_MS
from contract.ids import ID_RULE, is_id
from contract.limits import MAX_DOCUMENT_BYTES
from contract.settings import BadSetting, check
from contract.signed import sign_text
from contract.steering import Desired, Policy
from contract.topics import GroupPolicy, NodeDesired, Topic
from fleet import node_commands
from fleet.api.steering import CommandOutcome, Group, WishChange, Wished
from fleet.approval import Approves, check_approved, concerned
from fleet.client_quotas import ClientQuotas
from fleet.database.identities import write_audits
from fleet.database.store import Database
from fleet.errors import FolderError, NotFoundError, UsageError
from fleet.groups import Groups, Saved, check_steers, policy_of
from fleet.inventory import Inventory
from fleet.node_commands import NodeCommands
from fleet.query import parse, text_of
from fleet.wishes import Wishes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIFE_MS = 30 * DAY_MS  # a node that was away for longer gets one that holds again from its controller
RENEWED_AT_ONCE = 500  # of a fleet that was wished something on one day, not all come due in one hour
TEXT_BYTES = MAX_DOCUMENT_BYTES // 2  # in its envelope it is escaped
CONTROLLER = "controller"  # who does in the audit what nobody asked for


class Steering:
    """Desired state, policies and commands. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        inventory: Inventory,
        keys: "Sequence[Ed25519PrivateKey]",
        post: Callable[[Topic, bytes], bool],
        now_ms: Callable[[], int],
        approves: Approves,
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._wishes: Wishes = inventory.wishes
        self._keys = keys
        self._post = post
        self._now_ms = now_ms
        self._approves = approves
        self._groups = Groups(inventory.wishes.floor)
        self._lock = threading.RLock()
        self._to_review: set[str] = set()
        self.commands = NodeCommands(post, now_ms)
        self.quotas = ClientQuotas(database, keys, post, now_ms)
        with database.read() as connection:
            self._groups.load(connection)

    # What operators do.

    def wish(self, nodes: list[str], change: WishChange, actor: str) -> list[Wished]:
        """Wishes something of nodes, also of those that are not there. All of it or nothing.

        Raises:
            UsageError: a setting does not exist or cannot have this value.
            NotFoundError: there is no such node.
            ConflictError: a release is not approved, and a node has not got it.
        """
        _check(change)
        unknown = sorted({node for node in nodes if not self._inventory.knows(node)})
        if unknown:
            raise NotFoundError(f"cannot find node {unknown[0]!r}: `fleet nodes` lists those that there are")
        for node in nodes:
            check_approved(node, change, self._inventory.record(node), self._approves)
        with self._lock:
            made = [new for node in dict.fromkeys(nodes) if (new := self._changed(node, change)) is not None]
            what = msgspec.json.encode(change).decode()
            self._issue(made, actor, "wish", what)
            fresh = {document.node for document in made}
            return [Wished(node, self._wishes.rev(node) or 0, node in fresh) for node in dict.fromkeys(nodes)]

    def nodes_with(self, release: str) -> list[str]:
        """The nodes that have a release, or of which it is wished, by name."""
        found = []
        for record in self._inventory.records():
            held = self._wishes.held(record.node)
            wish = held.document if held else None
            if concerned(release, record, [*wish.adapters, wish.model or ""] if wish else []):
                found.append(record.node)
        return sorted(found)

    def groups(self) -> list[Group]:
        """All groups, by name."""
        found = []
        for saved in self._groups.all():
            policy, num_nodes = policy_of(saved), len(self._inventory.find(saved.tree))
            rev, settings = (policy.rev, policy.settings) if policy else (None, None)
            found.append(Group(saved.name, saved.query or "", rev, settings, num_nodes))
        return found

    def save_group(self, name: str, query: str, actor: str) -> None:
        """Saves a query under a name, in place of the one that it had.

        Raises:
            UsageError: the name or the query cannot be one.
        """
        if not is_id(name):
            raise UsageError(f"cannot use group {name!r}: an id is {ID_RULE}")
        tree = parse(query, self._inventory.labels())
        with self._lock:
            old = self._groups.last(name)
            if old.policy is not None:
                check_steers(name, tree)
            self._save(replace(old, query=text_of(tree)), actor, "group", text_of(tree))

    def delete_group(self, name: str, actor: str) -> None:
        """Deletes a group and its policy.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            old = self._groups.find(name)
            self._save(replace(old, query=None, policy=None), actor, "group delete", "")
            self._post(GroupPolicy(name), b"")

    def set_policy(self, group: str, settings: dict[str, Any], actor: str) -> int:
        """Gives a group a policy in place of the one that it had.

        Returns:
            The policy's revision.

        Raises:
            UsageError: a setting does not exist, or the group's query asks for what changes by itself.
            NotFoundError: there is no such group.
        """
        _check_settings(settings)
        with self._lock:
            old = self._groups.find(group)
            check_steers(group, old.tree)
            now = policy_of(old)
            if now is not None and now.settings == settings:
                return old.rev
            what = msgspec.json.encode(settings).decode()
            return self._set_policy(old, settings, actor, what)

    def drop(self, node: str) -> None:
        """Wishes nothing of a node any more."""
        with self._lock:
            with self._database.write() as connection:
                self._wishes.drop(connection, node)
            self._post(NodeDesired(node), b"")

    async def command(
        self, node: str, op: str, args: dict[str, Any], *, timeout_s: float, actor: str
    ) -> CommandOutcome:
        """Sends a command and waits for its end.

        Raises:
            UsageError: there is no such command.
            NotFoundError: there is no such node.
        """
        node_commands.check(op, timeout_s)
        if not self._inventory.knows(node):
            raise NotFoundError(f"cannot find node {node!r}: `fleet nodes` lists those that there are")
        await asyncio.to_thread(self._write_audit, actor, f"cmd {op}", node, msgspec.json.encode(args).decode())
        return await self.commands.run(node, op, args, timeout_s, online=self._inventory.is_online(node))

    def make_anew(self, why: str) -> None:
        """Gives every document and policy a new revision, with the same content."""
        with self._lock:
            self._issue([self._again(node, held.document) for node, held in self._wishes.all()], CONTROLLER, why, "")
            for saved in self._groups.all():
                if policy := policy_of(saved):
                    self._set_policy(saved, policy.settings, CONTROLLER, why)

    # What follows from what is heard.

    def heard_report(self, node: str, rev: int) -> None:
        """A node has reported the revision that it knows."""
        self.heard_beat(node, rev)
        if self._wishes.take_floor(node, rev) and self._wishes.held(node) is not None:
            self._review_later(node)

    def heard_beat(self, node: str, rev: int) -> None:
        """A node is there, and this is the revision that it has reported; 0: its last report was not heard."""
        held = self._wishes.held(node)
        if held is not None and rev < held.rev:
            with self._lock:  # a newer one may be on its way, and must be the last
                self._publish([node])

    def heard_desired(self, node: str, rev: int) -> None:
        """The broker keeps a document of this revision for a node."""
        if self._wishes.take_floor(node, rev) and self._wishes.held(node) is not None:
            self._review_later(node)

    def heard_policy(self, group: str, rev: int) -> None:
        """The broker keeps a policy of this revision for a group."""
        self._groups.take_floor(group, rev)
        if self._groups.last(group).policy is None:  # it was deleted while there was no connection
            self._post(GroupPolicy(group), b"")

    def heard_card(self, node: str) -> None:
        """A node's card is another than before."""
        self._review_later(node)

    def review(self) -> None:
        """Makes new documents for the nodes of which something was heard, where they must be other ones."""
        with self._lock:
            nodes, made = self._to_review, []
            for node in nodes:
                new = self._changed(node, WishChange())
                held = self._wishes.held(node)
                if new is None and held is not None and self._wishes.next_rev(node) > held.rev + 1:
                    new = self._again(node, held.document)
                if new is not None:
                    made.append(new)
            self._issue(made, CONTROLLER, "review", "")
            self._to_review = set()  # only now: it may have failed

    def resend(self) -> None:
        """Publishes what nodes have not reported yet, and all policies: the broker is another, or was away."""
        self.quotas.begin()
        with self._lock:
            self._publish(
                [node for node, held in self._wishes.all() if (self._inventory.reported_rev(node) or 0) < held.rev]
            )
            for saved in self._groups.all():
                self._publish_policy(saved)

    def renew(self) -> None:
        """Makes documents again, with the same content, of which half of their life is over."""
        with self._lock:
            until = self._now_ms() + LIFE_MS // 2
            old = [(node, held.document) for node, held in self._wishes.all() if held.document.exp < until]
            self._issue([self._again(*one) for one in old[:RENEWED_AT_ONCE]], CONTROLLER, "renew", "")
            for saved in self._groups.all():
                policy = policy_of(saved)
                if policy is not None and policy.exp < until:
                    self._set_policy(saved, policy.settings, CONTROLLER, "renew")

    # How.

    def _review_later(self, node: str) -> None:
        with self._lock:
            self._to_review.add(node)

    def _changed(self, node: str, change: WishChange) -> Desired | None:
        """A node's new document, or None when the one that it has says the same."""
        held = self._wishes.held(node)
        old = held.document if held else None
        settings = {**(old.settings if old else {}), **change.settings}
        record = self._inventory.record(node)
        content = {
            "model": (old and old.model) if change.model is msgspec.UNSET else change.model,
            "adapters": (old.adapters if old else []) if change.adapters is msgspec.UNSET else change.adapters,
            "settings": {name: value for name, value in settings.items() if value is not None},
            "groups": (old.groups if old else []) if record is None else self._groups.of(record),
        }
        before = {name: getattr(old, name) for name in content} if old else _NOTHING
        return None if content == before else self._document(node, content)

    def _again(self, node: str, old: Desired) -> Desired:
        return self._document(node, {name: getattr(old, name) for name in _NOTHING})

    def _document(self, node: str, content: dict[str, Any]) -> Desired:
        now_ms = self._now_ms()
        rev = self._wishes.next_rev(node)
        reported = self._inventory.reported_rev(node) or 0
        return Desired(node=node, rev=max(rev, reported + 1), issued=now_ms, exp=now_ms + LIFE_MS, **content)

    def _issue(self, documents: list[Desired], actor: str, action: str, what: str) -> None:
        """Stores documents, then publishes them."""
        if not documents:
            return
        audits = [(actor, action, one.node, f"revision {one.rev} {what}".rstrip()) for one in documents]
        try:
            with self._database.write() as connection:
                made = self._wishes.write(connection, documents)
                write_audits(connection, self._now_ms(), audits)
        except IntegrityError as error:
            raise FolderError(
                "cannot give out a revision twice: another controller uses this database; stop one of them"
            ) from error
        self._wishes.hold(made)
        self._publish(list(made))

    def _set_policy(self, old: Saved, settings: dict[str, Any], actor: str, what: str) -> int:
        now_ms, rev = self._now_ms(), self._groups.next_rev(old.name)
        policy = Policy(group=old.name, rev=rev, issued=now_ms, exp=now_ms + LIFE_MS, settings=settings)
        text = msgspec.json.encode(policy, order="deterministic")
        self._save(replace(old, rev=rev, policy=text), actor, "policy", f"revision {rev} {what}")
        return rev

    def _save(self, saved: Saved, actor: str, action: str, what: str) -> None:
        """Stores a group, publishes its policy, and tells the nodes that are in it or not in it any more."""
        with self._database.write() as connection:
            self._groups.write(connection, saved)
            write_audits(connection, self._now_ms(), [(actor, action, saved.name, what)])
        self._groups.hold(saved)
        self._publish_policy(saved)
        self._to_review |= {record.node for record in self._inventory.records()}
        self.review()

    def _write_audit(self, actor: str, action: str, subject: str, detail: str) -> None:
        with self._database.write() as connection:
            write_audits(connection, self._now_ms(), [(actor, action, subject, detail)])

    def _publish(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            held = self._wishes.held(node)
            if held is None or not self._post(NodeDesired(node), sign_text(held.text, self._keys)):
                return  # there is no connection; at the next one all is published

    def _publish_policy(self, saved: Saved) -> None:
        if saved.policy is not None:
            self._post(GroupPolicy(saved.name), sign_text(saved.policy, self._keys))


_NOTHING: dict[str, Any] = {"model": None, "adapters": [], "settings": {}, "groups": []}


def _check(change: WishChange) -> None:
    _check_settings({name: value for name, value in change.settings.items() if value is not None})
    names = [] if change.adapters is msgspec.UNSET else change.adapters
    if len(msgspec.json.encode(names)) > TEXT_BYTES:
        raise UsageError(f"cannot wish for {len(names)} adapters: their names take more than {TEXT_BYTES} bytes")


def _check_settings(settings: dict[str, Any]) -> None:
    try:
        for name, value in settings.items():
            check(name, value)
    except BadSetting as error:
        raise UsageError(str(error)) from None
