"""Whose signatures on releases count: shown, and changed by a new root."""

from tuf.api.metadata import Root

from fleet.api.trust import Changed, Role, RoleKeys, Signer, Waiting
from fleet.errors import ConflictError, NotFoundError, UsageError
from fleet.releases.catalogue import Audit
from fleet.releases.keys import KeyRing, read_public
from fleet.releases.metadata import ROLES
from fleet.releases.repository import Repository


class Trust:
    """Keys and roles of a repository."""

    def __init__(self, repository: Repository, keys: KeyRing, audit: Audit) -> None:
        self._repository = repository
        self._keys = keys
        self._audit = audit

    def roles(self) -> list[RoleKeys]:
        """All roles, as nodes see them."""
        files, here = self._repository.files, self._keys.signers().keys()
        root = files.root().signed
        signed = {
            "root": root, "targets": files.targets().signed, "snapshot": files.snapshot().signed,
            "timestamp": files.timestamp().signed,
        }  # fmt: skip
        return [
            RoleKeys(
                role=role,
                version=signed[role].version,
                expires_ms=int(signed[role].expires.timestamp() * 1000),
                threshold=root.roles[role].threshold,
                keys=[Signer(keyid, keyid in here) for keyid in root.roles[role].keyids],
                missing=self._repository.missing(role),
            )
            for role in ROLES
        ]

    def rotate(self, role: Role, old: str | None, public: str | None, actor: str) -> Changed:
        """Puts a new key in an old one's place.

        Raises:
            UsageError: it is not clear which key goes, or the new one is none.
            NotFoundError: there is no such key.
            ConflictError: the new one is there already.
        """
        keyids = self._repository.next_root().roles[role].keyids
        if old is None and len(keyids) > 1:
            raise UsageError(f"cannot tell which key of {role} goes: name one of {', '.join(keyids)} with --old")
        goes = keyids[0] if old is None else _find(keyids, old, role)
        given = read_public(public) if public else None
        if given is not None and given.keyid in keyids:
            raise ConflictError(f"cannot add the key {given.keyid}: it counts for {role} already")
        self._audit(actor, "release.rotate", role, goes)
        comes = given or self._keys.make(role)

        def change(root: Root) -> None:
            root.revoke_key(goes, role)
            root.add_key(comes, role)

        return Changed(missing=self._repository.change_root(change), key=comes.keyid)

    def revoke(self, role: Role, key: str, actor: str) -> Changed:
        """Has a key count no more.

        Raises:
            NotFoundError: there is no such key.
            ConflictError: not enough would be left to sign.
        """
        now = self._repository.next_root().roles[role]
        goes = _find(now.keyids, key, role)
        if len(now.keyids) <= now.threshold:
            raise ConflictError(
                f"cannot revoke {goes}: {role} needs {now.threshold} of its {len(now.keyids)} keys; put another in its "
                "place with `fleet release keys rotate`"
            )
        self._audit(actor, "release.revoke", role, goes)
        return Changed(missing=self._repository.change_root(lambda root: root.revoke_key(goes, role)))

    def waiting(self, role: Role) -> Waiting:
        """What waits for signatures.

        Raises:
            NotFoundError: nothing does.
        """
        metadata = self._repository.pending(role)
        missing = self._repository.missing(role) or 0
        return Waiting(metadata.signed.version, missing, metadata.to_bytes().decode())

    def submit(self, role: Role, text: str, actor: str) -> Changed:
        """Takes signatures.

        Raises:
            UsageError, ConflictError, NotFoundError: they are none over what waits.
        """
        self._audit(actor, "release.submit", role, "")
        return Changed(missing=self._repository.submit(role, text.encode()))

    def discard(self, role: Role, actor: str) -> None:
        """Gives up what waits: it was not to be."""
        self._audit(actor, "release.discard", role, "")
        self._repository.discard(role)


def _find(keyids: list[str], given: str, role: Role) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(given)]
    if len(found) != 1:
        raise NotFoundError(f"cannot find the key {given} of {role}: there are {', '.join(keyids)}")
    return found[0]
