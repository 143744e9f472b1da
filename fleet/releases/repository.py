"""Who may sign releases, what is approved, what is the newest: TUF 1.0 metadata with consistent snapshots
(https://theupdateframework.github.io/specification/v1.0.33/), changed so that nodes always find a whole chain.

What always holds, whenever the process is killed or the power goes:

- Nodes see a change with one rename: `timestamp.json`, after all that it leads to is on disk.
- A new root is written after what it leads to has been signed for the old root and the new one, as far as the keys are
  here. So who reads in between finds a whole chain.
- A number in a file's name is used once, also when what it was used for was never seen. Versions only grow.
- What not enough keys have signed waits in the folder `pending`, and changes nothing.
"""

import threading
from collections.abc import Callable, Iterable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import structlog
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp, VerificationResult
from tuf.api.metadata import Role as RoleKeys

from fleet.api.trust import Role
from fleet.errors import ConflictError, FolderError, NotFoundError, UsageError
from fleet.folder import ReleasesSection
from fleet.releases.keys import KeyRing
from fleet.releases.metadata import ROLES, MetadataFiles, read_metadata

log = structlog.get_logger()

Signed = TypeVar("Signed", Root, Targets, Snapshot, Timestamp)

# Of the root's keys one can be lost and one can be stolen.
NUM_ROOT_KEYS, ROOT_THRESHOLD = 3, 2


class Repository:
    """Changes metadata. Safe to use from several threads, of one process; `files` may be read at any time."""

    def __init__(self, files: MetadataFiles, keys: KeyRing, lives: ReleasesSection, now_ms: Callable[[], int]) -> None:
        self.files = files
        self._keys = keys
        self._lives = {role: timedelta(days=getattr(lives, f"{role}_days")) for role in ROLES}
        self._now_ms = now_ms
        self._lock = threading.RLock()

    def begin(self) -> None:
        """Writes the first metadata, of new keys."""
        root = Root(1, None, self._expiry("root"), {}, {role: RoleKeys([], 1) for role in ROLES}, True)
        for role in ROLES:
            for _ in range(NUM_ROOT_KEYS if role == "root" else 1):
                root.add_key(self._keys.make(role), role)
        root.roles["root"].threshold = ROOT_THRESHOLD
        metadata = self._sign(root, [root])
        self.files.write("1.root.json", metadata.to_bytes())
        self.files.write("root.json", metadata.to_bytes())
        self._publish(self._sign(Targets(1, None, self._expiry("targets")), [root]), [root])

    def draft(self) -> Targets:
        """What will be approved: the list that waits for signatures, else the one that is approved."""
        with self._lock:
            return (self.files.pending("targets") or self.files.targets()).signed

    def change_targets(self, change: Callable[[Targets], None]) -> int:
        """Changes what is approved.

        Returns:
            How many signatures it still needs before nodes see it.
        """
        with self._lock:
            targets = self.draft()
            change(targets)
            return self._offer_targets(targets)

    def next_root(self) -> Root:
        """The root that will hold: the one that waits for signatures, else the newest."""
        with self._lock:
            return (self.files.pending("root") or self.files.root()).signed

    def change_root(self, change: Callable[[Root], None]) -> int:
        """Changes whose signatures count.

        Returns:
            How many signatures it still needs before nodes see it.
        """
        with self._lock:
            old = self.files.root().signed
            root = self.next_root()
            change(root)
            root.version, root.expires = old.version + 1, self._expiry("root")
            return self._offer(self._sign(root, [old, root]))

    def pending(self, role: Role) -> Metadata[Any]:
        """What waits for signatures.

        Raises:
            NotFoundError: nothing does.
        """
        with self._lock:
            found = self.files.pending(role)
            if found is None:
                raise NotFoundError(f"cannot find any {role} metadata that waits for signatures: all is signed")
            return found

    def missing(self, role: Role) -> int | None:
        """How many signatures what waits still needs; None: nothing waits."""
        with self._lock:
            found = self.files.pending(role)
            return None if found is None else self._num_missing(found)

    def submit(self, role: Role, data: bytes) -> int:
        """Takes signatures over what waits.

        Returns:
            How many it still needs before nodes see it.

        Raises:
            UsageError: this is no signed metadata.
            NotFoundError, ConflictError: nothing waits, or something else does.
        """
        with self._lock:
            waiting, given = self.pending(role), read_metadata(data)
            if given.signed_bytes != waiting.signed_bytes:
                raise ConflictError(
                    f"cannot take signatures over version {given.signed.version} of {given.signed.type}: "
                    "something else waits by now; fetch it again with `fleet release pending` and sign that"
                )
            before = self._num_missing(waiting)
            waiting.signatures = {**waiting.signatures, **given.signatures}
            if self._num_missing(waiting) == before:
                raise UsageError(
                    f"cannot use these signatures: none is from a key of {role} that has not signed yet; "
                    "`fleet release keys ls` shows whose count"
                )
            return self._offer(waiting)

    def discard(self, role: Role) -> None:
        """Gives up what waits for signatures.

        Raises:
            NotFoundError: nothing does.
        """
        with self._lock:
            self.pending(role)
            self.files.drop(role)

    def settle(self) -> None:
        """Finishes what was interrupted, and renews what is in the second half of its life. At the start, and often."""
        with self._lock:
            self._settle_pending()
            root = self.files.root()
            self.files.write("root.json", root.to_bytes())
            if not self._is_young(root.signed) and self.files.pending("root") is None:
                self.change_root(lambda _root: None)
                root = self.files.root()
            targets = self.files.targets()
            if not self._is_good(targets, [root.signed]) and self.files.pending("targets") is None:
                self._offer_targets(targets.signed)
            self._publish(self.files.targets(), [root.signed])

    def timestamp_for(self, life: timedelta) -> bytes:
        """A timestamp for who is out of reach, which holds for longer than the one that nodes see here.

        It has a version of its own: the one here steps over it first, so that no node sees two of one version.

        Raises:
            UsageError: what it names does not hold for so long.
        """
        with self._lock:
            self.settle()
            now, until = self.files.timestamp().signed, self._now() + life
            least = min(one.signed.expires for one in (self.files.root(), self.files.targets(), self.files.snapshot()))
            if until > least:
                raise UsageError(f"cannot sign for {life.days} days: what is signed holds for {least - self._now()}")
            root, meta = self.files.root().signed, now.snapshot_meta
            here = Timestamp(now.version + 2, None, self._expiry("timestamp"), meta)
            self.files.write("timestamp.json", self._sign_here(here, [root]).to_bytes())
            return self._sign_here(Timestamp(now.version + 1, None, until, meta), [root]).to_bytes()

    # How.

    def _settle_pending(self) -> None:
        """What waits may be over by now, or may be signed with keys that came since."""
        root = self.files.pending("root")
        if root is not None:
            seen = self.files.root().signed
            if root.signed.version <= seen.version:
                self.files.drop("root")
            else:
                self._offer_signed(root, [seen, root.signed])
        targets = self.files.pending("targets")
        if targets is not None:
            seen_targets = self.files.targets().signed
            if targets.signed.version > seen_targets.version:
                self._offer_signed(targets, [self.files.root().signed])
            elif _content(targets.signed) == _content(seen_targets):
                self.files.drop("targets")
            else:
                self._offer_targets(targets.signed)

    def _offer_signed(self, waiting: Metadata[Any], roots: list[Root]) -> None:
        ours = self._sign(waiting.signed, roots).signatures
        if ours.items() - waiting.signatures.items() or not self._num_missing(waiting):
            waiting.signatures = {**waiting.signatures, **ours}
            self._offer(waiting)

    def _offer_targets(self, targets: Targets) -> int:
        targets = deepcopy(targets)
        targets.version, targets.expires = self.files.newest("targets") + 1, self._expiry("targets")
        return self._offer(self._sign(targets, [self.files.root().signed]))

    def _offer(self, metadata: Metadata[Any]) -> int:
        """Has nodes see it when enough keys have signed; else it waits."""
        signed = metadata.signed
        missing = self._num_missing(metadata)
        if missing:
            self.files.keep(metadata)
            log.warning("metadata waits for signatures", role=signed.type, version=signed.version, missing=missing)
            return missing
        if isinstance(signed, Root):
            self._publish_root(metadata)
        else:
            self._publish(metadata, [self.files.root().signed])
        self.files.drop(signed.type)
        return 0

    def _publish_root(self, new: Metadata[Root]) -> None:
        both, targets = [self.files.root().signed, new.signed], self.files.targets()
        if not self._verifies(targets, both):
            again = deepcopy(targets.signed)
            again.version = self.files.newest("targets") + 1
            targets = self._sign(again, both)
        if self._verifies(targets, both):
            self._publish(targets, both)
        self.files.write(f"{new.signed.version}.root.json", new.to_bytes())
        self.files.drop("root")
        self.settle()

    def _publish(self, targets: Metadata[Targets], roots: list[Root]) -> None:
        """Writes what is new: the targets, the snapshot when it must be another, and last the timestamp."""
        data = targets.to_bytes()
        self.files.write(f"{targets.signed.version}.targets.json", data)
        of_targets = MetaFile.from_data(targets.signed.version, data, ["sha256"])
        snapshot = self.files.snapshot() if self.files.have_begun else None
        if snapshot is None or snapshot.signed.meta["targets.json"] != of_targets or not self._is_good(snapshot, roots):
            version = self.files.newest("snapshot") + 1
            fresh = Snapshot(version, None, self._expiry("snapshot"), {"targets.json": of_targets})
            snapshot = self._sign_here(fresh, roots)
            self.files.write(f"{version}.snapshot.json", snapshot.to_bytes())
        of_snapshot = MetaFile.from_data(snapshot.signed.version, snapshot.to_bytes(), ["sha256"])
        timestamp = self.files.timestamp() if self.files.have_begun else None
        if timestamp is None or timestamp.signed.snapshot_meta != of_snapshot or not self._is_good(timestamp, roots):
            version = timestamp.signed.version + 1 if timestamp else 1
            signed = Timestamp(version, None, self._expiry("timestamp"), of_snapshot)
            self.files.write("timestamp.json", self._sign_here(signed, roots).to_bytes())

    def _sign_here(self, signed: Signed, roots: list[Root]) -> Metadata[Signed]:
        metadata = self._sign(signed, roots)
        if not self._verifies(metadata, roots[-1:]):
            raise FolderError(
                f"cannot sign the {signed.type} of releases: its key is not in {self._keys.folder}; put it back, or "
                "have the root name another with `fleet release keys rotate`"
            )
        return metadata

    def _sign(self, signed: Signed, roots: Iterable[Root]) -> Metadata[Signed]:
        """Signs with all keys that are here and count for any of these roots."""
        metadata = Metadata(signed)
        keyids = {keyid for root in roots for keyid in root.roles[signed.type].keyids}
        for keyid, signer in self._keys.signers().items():
            if keyid in keyids:
                metadata.sign(signer, append=True)
        return metadata

    def _num_missing(self, metadata: Metadata[Any]) -> int:
        signed = metadata.signed
        roots = [self.files.root().signed, *([signed] if isinstance(signed, Root) else [])]
        return max(_result(root, metadata).missing for root in roots)

    def _verifies(self, metadata: Metadata[Any], roots: Iterable[Root]) -> bool:
        return all(_result(root, metadata).verified for root in roots)

    def _is_good(self, metadata: Metadata[Any], roots: list[Root]) -> bool:
        return self._verifies(metadata, roots) and self._is_young(metadata.signed)

    def _is_young(self, signed: Root | Targets | Snapshot | Timestamp) -> bool:
        return signed.expires - self._now() > self._lives[cast(Role, signed.type)] / 2

    def _expiry(self, role: Role) -> datetime:
        return self._now() + self._lives[role]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._now_ms() // 1000, UTC)


def _result(root: Root, metadata: Metadata[Any]) -> VerificationResult:
    return root.get_verification_result(metadata.signed.type, metadata.signed_bytes, metadata.signatures)


def _content(targets: Targets) -> object:
    return targets.targets, targets.unrecognized_fields
