"""The SQLite file: opening it, its migrations, and the one thread that writes to it.

Invariants:
- `synchronous=FULL`: what a write returned for is on disk (with NORMAL, 0 of 50 committed rows survived a power cut).
- All writes go through one thread, which commits everything that waits in one transaction: a slow disk costs one
  flush per group, and the event loop never waits for it.
- A write that fails is rolled back alone; the others of its group are committed.
"""

import asyncio
import contextlib
import fcntl
import importlib
import os
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

from agent.errors import StoreError

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], Any]
log = structlog.get_logger()

FILE = "agent.db"
# Left free on the disk for the journal, whatever is imported: without it no request could be taken.
RESERVE_BYTES = 16 << 20


class Kind(NamedTuple):
    """What one kind of database file is: its name, the module beside this one with its schema, what is set at every
    opening, how damage is found.
    """

    file: str
    migrations: str
    pragmas: tuple[str, ...]
    check: Callable[[sqlite3.Connection], None]


def _quick_check(db: sqlite3.Connection) -> None:
    damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)


AGENT = Kind(
    FILE,
    "migrations",
    # Deleted prompts are overwritten, and a purge gives pages back without rewriting the file.
    pragmas=("secure_delete=FAST",),
    check=_quick_check,
)


def open_file(state_dir: Path, kind: Kind, *, repair: bool) -> sqlite3.Connection:
    """Opens or makes a database file and brings it to the current schema.

    A damaged file is moved aside, and a new one is made: a device must come up again by itself. Who only looks at the
    file passes `repair` false.

    Raises:
        StoreError: the directory or file cannot be used.
    """
    path = state_dir / kind.file
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_at_a_time(state_dir):
            try:
                return _open(path, kind)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) or not repair:
                    raise
                _set_aside(path)
                return _open(path, kind)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot use the database {path}: {error}; check space and rights of {state_dir}") from error


class Database:
    """An open database. `read` is for the event loop's thread, `write` may come from any coroutine."""

    def __init__(self, state_dir: Path, *, repair: bool = True) -> None:
        """Opens or makes the database, as `open_file` does.

        Raises:
            StoreError: the directory or file cannot be used.
        """
        self.path = state_dir / FILE
        self._reader = open_file(state_dir, AGENT, repair=repair)
        try:
            self._writer = _connect(self.path, AGENT)
        except sqlite3.Error as error:
            raise StoreError(f"cannot use the database {self.path}: {error}; check space and rights") from error
        self._queue: queue.SimpleQueue[tuple[Write, Callable[[Any, Exception | None], None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a query. For lookups by key: they take microseconds.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self.path}: {error}; check the disk") from error

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `change` inside a transaction and returns its result once that is on disk.

        Raises:
            StoreError: the change was not made (disk full, read-only, closed).
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(StoreError(f"cannot write to {self.path}: {error}; free some disk space"))

        def report(result: T, error: Exception | None) -> None:
            loop.call_soon_threadsafe(settle, result, error)

        if not self._thread.is_alive():
            raise StoreError(f"cannot write to {self.path}: it is closed")
        self._queue.put((change, report))
        return await done

    def close(self) -> None:
        """Commits what waits, ends the thread and closes the file."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            last = False
            while not self._queue.empty() and len(group) < 256:
                more = self._queue.get()
                if more is None:
                    last = True
                    break
                group.append(more)
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[tuple[Write, Callable[[Any, Exception | None], None]]]) -> None:
        db = self._writer
        results: list[tuple[Any, Exception | None]] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for change, _ in group:
                db.execute("SAVEPOINT one")
                try:
                    results.append((change(db), None))
                except Exception as error:  # noqa: BLE001  # whatever it was, it is this writer's answer and must not end the thread
                    results.append((None, error))
                    db.execute("ROLLBACK TO one")
                db.execute("RELEASE one")
            db.execute("COMMIT")
        except sqlite3.Error as error:  # the group as a whole failed: none of it is on disk
            if db.in_transaction:
                db.execute("ROLLBACK")
            results = [(None, error)] * len(group)
        for (_, report), (result, failure) in zip(group, results, strict=True):
            report(result, failure)


@contextlib.contextmanager
def _one_at_a_time(state_dir: Path) -> Iterator[None]:
    """A daemon and a command that both find no file yet must not both make its tables."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
    path.replace(aside)
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    log.error("database was damaged and is set aside", aside=str(aside))


def _open(path: Path, kind: Kind) -> sqlite3.Connection:
    db = _connect(path, kind)
    try:
        kind.check(db)
        _migrate(db, kind)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, kind: Kind) -> None:
    """Brings a database to the current schema. Its `user_version` says by which text of the migrations it was made."""
    text = Path(__file__).with_name(f"{kind.migrations}.py").read_bytes()
    version = zlib.crc32(text) & 0x7FFF_FFFF
    if db.execute("PRAGMA user_version").fetchone()[0] != version:
        import sqlite_utils  # not before it is needed: loading it is a quarter of a start

        importlib.import_module(f"agent.store.{kind.migrations}").migrations.apply(sqlite_utils.Database(db))
        db.execute(f"PRAGMA user_version = {version}")


def _connect(path: Path, kind: Kind) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    path.chmod(0o600)  # prompts are in here
    db.row_factory = sqlite3.Row
    for pragma in (*kind.pragmas, "journal_mode=WAL", "synchronous=FULL"):
        db.execute(f"PRAGMA {pragma}")
    return db
