"""The adapters of a node, in a database file of their own: commands import into it while the daemon serves.

Invariants:
- An adapter is a header and an ordered list of tensors. A tensor is there once, however many adapters have it, and goes
  in the transaction in which the last of them goes.
- What is read is what was stored: the digest of the whole file is checked each time an adapter leaves the store.
- A change is there wholly or not at all, and on disk when the call returns.

Safe to be used by several threads; every call may wait for the disk.
"""

import contextlib
import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import ModelError, NoSpaceError, StoreError
from agent.eviction import FULL_USES, NotEnoughError
from agent.store import adapter_room
from agent.store.adapter_entries import VERSION_DIGITS, Entry, NewAdapter, Sizes, Use
from agent.store.database import RESERVE_BYTES, Kind, open_file
from agent.weights.parts import joined

FILE = "adapters.db"

# All tables but the data: with it, opening would read the whole file. Damage in there is found by the digests.
_SMALL_TABLES = ("tensors", "adapters", "parts", "names", "uses")

_ENTRIES = """
    SELECT n.name, n.pinned, a.sha256, a.base_sha256, a.bytes, a.rank, a.activation, a.scores, a.imported_ms
    FROM adapters a {join} names n ON n.adapter = a.key ORDER BY n.name, a.sha256
"""


class AdapterStore:
    """The open database."""

    def __init__(self, state_dir: Path, *, repair: bool = True) -> None:
        """Opens or makes it; a damaged file is set aside as `open_file` says.

        Raises:
            StoreError: the directory or file cannot be used.
        """
        self.path = state_dir / FILE
        self._db = open_file(state_dir, ADAPTERS, repair=repair)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    # What there is.

    @property
    def version(self) -> tuple[int, int]:
        """Another value once anybody has changed anything."""
        with self._reading() as db:
            return int(db.execute("PRAGMA data_version").fetchone()[0]), db.total_changes

    def entries(self) -> list[Entry]:
        """Every name, in order."""
        with self._reading() as db:
            return [_entry(dict(row)) for row in db.execute(_ENTRIES.format(join="JOIN"))]

    def unnamed(self) -> list[Entry]:
        """Adapters that nothing names any more."""
        with self._reading() as db:
            rows = [dict(row) for row in db.execute(_ENTRIES.format(join="LEFT JOIN")) if row["name"] is None]
            return [_entry(row | {"name": "", "pinned": False}) for row in rows]

    def sizes(self) -> dict[str, Sizes]:
        """By digest."""
        with self._reading() as db:
            return {
                row["sha256"]: Sizes(row["header_bytes"] + row["own_bytes"], row["shared_bytes"])
                for row in db.execute(adapter_room.SIZES)
            }

    def uses(self) -> dict[str, Use]:
        """By digest, also of adapters that have gone."""
        with self._reading() as db:
            rows = db.execute("SELECT sha256, hits, uses, last_use_ms FROM uses")
            return {row["sha256"]: Use(row["hits"], row["uses"], row["last_use_ms"]) for row in rows}

    def stored_bytes(self) -> int:
        """What the budget is about."""
        with self._reading() as db:
            return adapter_room.stored_bytes(db)

    def read(self, sha256: str, take: Callable[[bytes | memoryview], object]) -> None:
        """Calls `take` with the file of an adapter, piece by piece. Believe them only when this has returned.

        Raises:
            StoreError: it is not there, or cannot be read.
            ModelError: what is there is not what was stored.
        """
        digest = hashlib.sha256()
        with self._reading() as db:
            db.execute("BEGIN")
            try:
                row = db.execute("SELECT key, header FROM adapters WHERE sha256 = ?", (sha256,)).fetchone()
                if row is None:
                    raise StoreError(f"cannot read the adapter {sha256[:VERSION_DIGITS]}: it was removed")
                tensors = db.execute(
                    "SELECT p.offset, d.data FROM parts p JOIN tensor_data d ON d.key = p.tensor WHERE p.adapter = ?"
                    " ORDER BY p.offset",
                    (row["key"],),
                )
                for piece in joined(row["header"], ((offset, data) for offset, data in tensors)):
                    digest.update(piece)
                    take(piece)
            finally:
                db.execute("COMMIT")
        if digest.hexdigest() != sha256:
            raise ModelError(
                f"cannot use the adapter {sha256[:VERSION_DIGITS]}: the store is damaged, its SHA-256 is now"
                f" {digest.hexdigest()}; import it again after `shoal-agent adapters rm`"
            )

    def problems(self, progress: Callable[[str], object] = lambda _: None) -> list[str]:
        """Reads and hashes everything; returns what is wrong. `progress` hears of each adapter."""
        with self._reading() as db:
            found = [f"cannot trust {self.path}: {row[0]}" for row in db.execute("PRAGMA integrity_check(10)")]
            found = [] if found == [f"cannot trust {self.path}: ok"] else found
            lost = db.execute("PRAGMA foreign_key_check").fetchall()
            found += [f"cannot trust {self.path}: a row of {row['table']} belongs to nothing" for row in lost]
            counts = db.execute("SELECT key FROM tensors WHERE refs != (SELECT count(*) FROM parts WHERE tensor = key)")
            found += [f"cannot trust {self.path}: tensor {row['key']} is counted wrongly" for row in counts]
            data = db.execute("SELECT t.key, t.sha256, d.data FROM tensors t LEFT JOIN tensor_data d ON d.key = t.key")
            found += [
                f"cannot trust {self.path}: the data of tensor {row['key']} has changed"
                for row in data
                if row["data"] is None or hashlib.sha256(row["data"]).digest() != row["sha256"]
            ]
        for entry in {entry.sha256: entry for entry in [*self.unnamed(), *self.entries()]}.values():
            progress(entry.label)
            try:
                self.read(entry.sha256, lambda _: None)
            except (ModelError, StoreError) as error:
                found.append(str(error))
        return found

    # Changes.

    def put(
        self, name: str, new: NewAdapter, *, budget_bytes: int, now_ms: int, in_use: Collection[str] = ()
    ) -> list[str]:
        """Stores an adapter and gives it a name, which moves when another one has it. Returns what was evicted for it.

        Raises:
            NoSpaceError: it fits neither into the budget nor on the disk, whatever goes.
            StoreError: it is here for another base, or cannot be stored.
        """
        digests = [hashlib.sha256(content).digest() for _, content in new.parts.tensors]
        with self._changing() as db:
            row = db.execute("SELECT key, base_sha256 FROM adapters WHERE sha256 = ?", (new.sha256,)).fetchone()
            if row is not None and row["base_sha256"] != new.base_sha256:
                raise StoreError(
                    f"cannot import the adapter {name!r}: the same file is here for the base {row['base_sha256']}, not"
                    f" {new.base_sha256}; remove it first"
                )
            key = int(row["key"]) if row else self._insert(db, name, new, digests, now_ms)
            db.execute(
                "INSERT INTO names (name, adapter) VALUES (?, ?) ON CONFLICT DO UPDATE SET adapter = excluded.adapter",
                (name, key),
            )
            adapter_room.collect(db, in_use)
            try:
                return adapter_room.evict(db, budget_bytes, held={new.sha256, *in_use})
            except NotEnoughError as error:
                raise NoSpaceError(
                    f"cannot store the adapter {name!r} of {new.bytes} bytes: [store] adapters_mib allows"
                    f" {budget_bytes} bytes; {error}"
                ) from None

    def pin(self, name: str, pinned: bool) -> None:
        """Keeps the name from being evicted and removed, or no longer.

        Raises:
            StoreError: there is no such name.
        """
        with self._changing() as db:
            if not db.execute("UPDATE names SET pinned = ? WHERE name = ?", (pinned, name)).rowcount:
                raise StoreError(f"cannot find the adapter {name!r}")

    def remove(self, name: str, *, in_use: Collection[str] = ()) -> None:
        """Takes a name away. An adapter that has none left goes too, unless it is in use: then `collect` takes it.

        Raises:
            StoreError: there is no such name, or it is pinned.
        """
        with self._changing() as db:
            row = db.execute("SELECT pinned FROM names WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise StoreError(f"cannot find the adapter {name!r}")
            if row["pinned"]:
                raise StoreError(f"cannot remove the adapter {name!r}: it is pinned; unpin it first")
            db.execute("DELETE FROM names WHERE name = ?", (name,))
            adapter_room.collect(db, in_use)

    def collect(self, in_use: Collection[str]) -> int:
        """Removes adapters that nothing names and nobody uses. Returns how many."""
        with self._changing() as db:
            return adapter_room.collect(db, in_use)

    def shrink(self) -> int:
        """Gives free pages back to the file system. Returns how many bytes of them there were."""
        with self._reading() as db:
            free: int = db.execute("PRAGMA freelist_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
            db.executescript("PRAGMA incremental_vacuum")  # `execute` would do one step of it, which is one page
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return free

    def note_uses(self, hits: dict[str, int], now_ms: int) -> None:
        """Counts uses by digest. What eviction goes by fades as `agent.eviction` says."""
        with self._changing() as db:
            db.executemany(
                "INSERT INTO uses (sha256, hits, uses, last_use_ms) VALUES (?1, ?2, ?2, ?3) ON CONFLICT DO UPDATE SET"
                " hits = hits + ?2, uses = uses + ?2, last_use_ms = ?3",
                [(sha256, num, now_ms) for sha256, num in hits.items()],
            )
            while db.execute("SELECT sum(uses) FROM uses").fetchone()[0] >= FULL_USES:
                db.execute("UPDATE uses SET uses = uses / 2")

    def _insert(self, db: sqlite3.Connection, name: str, new: NewAdapter, digests: list[bytes], now_ms: int) -> int:
        keys = {row["sha256"]: row["key"] for digest in set(digests) for row in _tensor(db, digest)}
        tensors = list(zip(digests, new.parts.tensors, strict=True))
        sizes = {digest: len(content) for digest, (_, content) in tensors if digest not in keys}
        self._check_disk(name, len(new.parts.header) + sum(sizes.values()))
        adapter = db.execute(
            "INSERT INTO adapters (sha256, base_sha256, bytes, rank, activation, scores, imported_ms, header)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new.sha256,
                new.base_sha256,
                new.bytes,
                new.rank,
                new.activation,
                msgspec.json.encode(new.scores).decode(),
                now_ms,
                new.parts.header,
            ),
        ).lastrowid
        for digest, (offset, content) in tensors:
            if digest not in keys:
                row = db.execute("INSERT INTO tensors (sha256, bytes) VALUES (?, ?)", (digest, len(content)))
                keys[digest] = row.lastrowid
                db.execute("INSERT INTO tensor_data (key, data) VALUES (?, ?)", (row.lastrowid, content))
            db.execute("INSERT INTO parts (adapter, offset, tensor) VALUES (?, ?, ?)", (adapter, offset, keys[digest]))
        return int(adapter or 0)

    def _check_disk(self, name: str, num_bytes: int) -> None:
        """Before anything is written: a disk that is full to the last byte stops the journal too."""
        needed = 2 * num_bytes + RESERVE_BYTES  # once in the write-ahead log, once in the file
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise NoSpaceError(
                f"cannot store the adapter {name!r}: {needed} bytes must be free on the disk of {self.path},"
                f" {RESERVE_BYTES} of them for other data, and {free} are; free some space"
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"cannot read {self.path}: {error}; check the disk") from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    if self._db.in_transaction:  # some errors have ended it
                        self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StoreError:
        """The error to tell. What a change has left in the log that failed is given back."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            free = shutil.disk_usage(self.path.parent).free
            return NoSpaceError(f"cannot write to {self.path}: {error}; {free} bytes are free; free some disk space")
        return StoreError(f"cannot write to {self.path}: {error}; check the disk")


def _check(db: sqlite3.Connection) -> None:
    for table in _SMALL_TABLES:
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone():
            damage = db.execute(f"PRAGMA quick_check({table})").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)


def _entry(row: dict[str, Any]) -> Entry:
    return msgspec.convert(row | {"scores": msgspec.json.decode(row["scores"])}, Entry, strict=False)


def _tensor(db: sqlite3.Connection, digest: bytes) -> list[sqlite3.Row]:
    return db.execute("SELECT key, sha256 FROM tensors WHERE sha256 = ?", (digest,)).fetchall()


ADAPTERS = Kind(
    FILE,
    "adapter_migrations",
    # With pages of 16 KiB the file is 1.5 times what is in it, with those of 8 KiB 1.05 times, and reading is as fast
    # with all sizes from 4 to 64 KiB.
    pragmas=("page_size=8192", "auto_vacuum=INCREMENTAL", "foreign_keys=ON", f"journal_size_limit={1 << 20}"),
    check=_check,
)
