"""Opening the database, and its two kinds of transactions.

SQLite: WAL, synchronous FULL (NORMAL loses committed rows on a power cut, and with them who used which token), and a
transaction that writes takes the lock when it begins: one that reads first and then finds the lock taken would fail.
PostgreSQL: its default isolation; what must be atomic is one conditional statement.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from fleet.errors import FolderError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_S = 30


class Database:
    """The controller's database. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(writes=True)

    @property
    def engine(self) -> Engine:
        """For migrations and for looking into it."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of it is on disk when the block ends, and none of it when the block raises."""
        with self._writing.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Opens a database and brings its tables up to date.

    Args:
        url: `sqlite:///PATH` or `postgresql://user:password@host/name`.

    Raises:
        FolderError: it cannot be reached or used.
    """
    try:
        engine = _engine(make_url(url))
    except (ArgumentError, ImportError) as error:
        raise FolderError(
            "cannot use the database: write postgresql://user:password@host/name (with shoal[postgres] installed), "
            "or nothing for SQLite, in [database] url"
        ) from error
    try:
        _migrate(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        # The library's message may quote rows or the password.
        raise FolderError(
            f"cannot use the database {engine.url.render_as_string()}: {type(error).__name__}; "
            "is it there, and may this user use it?"
        ) from error
    return Database(engine)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    connection.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
