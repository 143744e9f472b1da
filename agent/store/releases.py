"""The manifests of releases that this node has, or is getting: verified before they come here."""

from msgspec import Struct

from agent.store.database import Database
from contract.release import Release, decode_release, encode_release


class Kept(Struct, frozen=True):
    """A release of this node. A pinned one stays whatever the budget says."""

    release: Release
    pinned: bool


class Releases:
    """Access to the table `releases`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, reference: str) -> Release | None:
        """The manifest of `name@version`.

        Raises:
            StoreError: it cannot be read.
        """
        rows = self._db.read("SELECT manifest FROM releases WHERE reference = ?", reference)
        return decode_release(bytes(rows[0]["manifest"])) if rows else None

    def all(self) -> list[Kept]:
        """All of them, the oldest first.

        Raises:
            StoreError: they cannot be read.
        """
        rows = self._db.read("SELECT manifest, pinned FROM releases ORDER BY key")
        return [Kept(decode_release(bytes(row["manifest"])), bool(row["pinned"])) for row in rows]

    async def put(self, release: Release) -> None:
        """Keeps a manifest. One of the same reference that says something else is replaced.

        Raises:
            StoreError: it cannot be stored.
        """
        data = encode_release(release)
        await self._db.write(
            lambda db: (
                db.execute(
                    "INSERT INTO releases (reference, manifest) VALUES (?, ?)"
                    " ON CONFLICT (reference) DO UPDATE SET manifest = excluded.manifest",
                    (release.reference, data),
                ).rowcount
            )
        )

    async def pin(self, reference: str, *, pinned: bool) -> bool:
        """Keeps a release on the disk, or no longer; returns whether there is one of this reference.

        Raises:
            StoreError: it cannot be stored.
        """
        changed = await self._db.write(
            lambda db: db.execute("UPDATE releases SET pinned = ? WHERE reference = ?", (pinned, reference)).rowcount
        )
        return bool(changed)

    async def forget(self, references: list[str]) -> None:
        """These are gone from the disk.

        Raises:
            StoreError: it cannot be deleted.
        """
        await self._db.write(
            lambda db: (
                db.executemany("DELETE FROM releases WHERE reference = ?", [(one,) for one in references]).rowcount
            )
        )
