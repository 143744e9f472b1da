"""Numbered changes to the schema of the adapters' database, in order. A released one is never edited: add the next."""

from sqlite_utils import Database, Migrations

migrations = Migrations("adapters")


@migrations()
def m0001_adapters(db: Database) -> None:
    """Adapters as a header and an ordered list of tensors, which they share; names; how much they are used."""
    for statement in (
        """
        CREATE TABLE tensors (
            key INTEGER PRIMARY KEY,
            sha256 BLOB NOT NULL UNIQUE,
            bytes INTEGER NOT NULL,
            refs INTEGER NOT NULL DEFAULT 0  -- rows of `parts`, kept by the triggers below
        ) STRICT
        """,
        # Apart from its tensor's row, which is then small enough that counting and summing read little.
        """
        CREATE TABLE tensor_data (
            key INTEGER PRIMARY KEY REFERENCES tensors ON DELETE CASCADE,
            data BLOB NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE adapters (
            key INTEGER PRIMARY KEY,
            sha256 TEXT NOT NULL UNIQUE,   -- of the whole file
            base_sha256 TEXT NOT NULL,     -- of the model file that it was made for
            bytes INTEGER NOT NULL,
            rank INTEGER NOT NULL,
            activation TEXT NOT NULL,
            scores TEXT NOT NULL,          -- JSON: 0 to 1, by the base's SHA-256
            imported_ms INTEGER NOT NULL,
            header BLOB NOT NULL           -- all of the file that is no tensor's data, in the file's order
        ) STRICT
        """,
        """
        CREATE TABLE parts (
            adapter INTEGER NOT NULL REFERENCES adapters ON DELETE CASCADE,
            offset INTEGER NOT NULL,       -- of the tensor's data in the file
            tensor INTEGER NOT NULL REFERENCES tensors,
            PRIMARY KEY (adapter, offset)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX parts_tensor ON parts (tensor)",
        """
        CREATE TABLE names (
            name TEXT PRIMARY KEY,
            adapter INTEGER NOT NULL REFERENCES adapters ON DELETE CASCADE,
            pinned INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX names_adapter ON names (adapter)",
        """
        CREATE TABLE uses (
            sha256 TEXT PRIMARY KEY,       -- also of adapters that have gone and may come back
            hits INTEGER NOT NULL,
            uses REAL NOT NULL,            -- the same, halved now and then: what eviction goes by
            last_use_ms INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TRIGGER part_added AFTER INSERT ON parts BEGIN
            UPDATE tensors SET refs = refs + 1 WHERE key = NEW.tensor;
        END
        """,
        """
        CREATE TRIGGER part_removed AFTER DELETE ON parts BEGIN
            UPDATE tensors SET refs = refs - 1 WHERE key = OLD.tensor;
            DELETE FROM tensors WHERE key = OLD.tensor AND refs = 0;
        END
        """,
    ):
        db.execute(statement)
