"""What of the work on updates survives a kill and a loss of power: a small database.

Child processes and `update import` write it, never the daemon:

    done     segments that are on the disk in the making of the file with this digest
    spent    bytes that came over the link that is paid for, by day
    floors   the newest version of each role's metadata that was ever accepted, by the keys that the role had

Losing it costs bytes, no safety: what is in a file can be found out from the file, and the metadata on the disk has
its versions too.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from agent.errors import StoreError

FILE: Final = "delivery.db"
KEPT_DAYS: Final = 32

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS done (
    file TEXT NOT NULL, segment TEXT NOT NULL, PRIMARY KEY (file, segment)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS floors (
    role TEXT NOT NULL, keys TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (role, keys)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""


class Record:
    """The open database, which one process has at a time.

    No sqlite-utils here: it would take a third of the memory that an update may.
    """

    def __init__(self, folder: Path) -> None:
        """Opens or makes it. A damaged one is moved aside.

        Raises:
            StoreError: the folder cannot be used.
        """
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # a child whose daemon was killed may not have ended yet
            try:
                self._db = _open(self._path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._path.replace(self._path.with_name(f"{FILE}.damaged-{time.time_ns() // 1_000_000}"))
                for tail in ("-wal", "-shm"):
                    self._path.with_name(FILE + tail).unlink(missing_ok=True)
                self._db = _open(self._path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot use {self._path}: {error}; check space and rights of {folder}") from error

    def close(self) -> None:
        """Closes it."""
        self._db.close()
        os.close(self._lock)

    def done(self, file: str) -> frozenset[str]:
        """The segments that a file has.

        Raises:
            StoreError: as all others here: it cannot be read.
        """
        return frozenset(row[0] for row in self._rows("SELECT segment FROM done WHERE file = ?", file))

    def add(self, file: str, segments: Iterable[str], day: int, num_bytes: int) -> None:
        """A file has these too, and so many bytes came since the last call.

        Raises:
            StoreError: it cannot be written.
        """
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO done VALUES (?, ?)", ((file, segment) for segment in segments))
            if num_bytes:
                self._db.execute(
                    "INSERT INTO spent VALUES (?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
                    (day, num_bytes),
                )
                self._db.execute("DELETE FROM spent WHERE day < ?", (day - KEPT_DAYS,))

    def replace(self, file: str, segments: Iterable[str]) -> None:
        """A file has these and no others.

        Raises:
            StoreError: it cannot be written.
        """
        with self._writing():
            self._db.execute("DELETE FROM done WHERE file = ?", (file,))
            self._db.executemany("INSERT INTO done VALUES (?, ?)", ((file, segment) for segment in segments))

    def spent(self, day: int) -> int:
        """Bytes that came on a day."""
        return sum(row[0] for row in self._rows("SELECT bytes FROM spent WHERE day = ?", day))

    def floor(self, role: str, keys: str) -> int:
        """The newest version that a role's metadata ever had under these keys."""
        return sum(row[0] for row in self._rows("SELECT version FROM floors WHERE role = ? AND keys = ?", role, keys))

    def raise_floors(self, versions: Iterable[tuple[str, str, int]]) -> None:
        """Metadata of these roles, keys and versions was accepted.

        Raises:
            StoreError: it cannot be written, and so must not be used.
        """
        with self._writing():
            self._db.executemany(
                "INSERT INTO floors VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET version = max(version, excluded.version)",
                versions,
            )

    def _rows(self, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self._path}: {error}; check the disk") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction."""
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"cannot write to {self._path}: {error}; free some disk space") from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if db.execute("PRAGMA user_version").fetchone()[0] < _SCHEMA_VERSION:
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
