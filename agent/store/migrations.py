"""Numbered changes to the database's schema, in order. A released one is never edited: add the next."""

from sqlite_utils import Database, Migrations

migrations = Migrations("agent")


@migrations()
def m0001_requests_outbox_facts(db: Database) -> None:
    """The journal of requests, the outbox, and single facts by name."""
    db.execute(
        """
        CREATE TABLE requests (
            key INTEGER PRIMARY KEY,
            client TEXT NOT NULL,
            id TEXT NOT NULL,
            digest BLOB NOT NULL,          -- of the question; the same id with another one is a conflict
            plain INTEGER NOT NULL,        -- 1: plain text in, plain text out
            body BLOB,                     -- the request as JSON; NULL once it has ended
            correlation BLOB,              -- MQTT 5 correlation data, given back as it came
            delivery INTEGER,              -- MQTT packet id, to know a redelivered prompt that has no id
            arrived_ms INTEGER NOT NULL,
            deadline_ms INTEGER NOT NULL,
            starts INTEGER NOT NULL,       -- how many times the daemon took it up
            status INTEGER,                -- NULL: not ended
            final BLOB,                    -- the final as it was sent
            ended_ms INTEGER,
            UNIQUE (client, id)
        ) STRICT
        """
    )
    db.execute("CREATE INDEX requests_open ON requests (key) WHERE status IS NULL")
    db.execute("CREATE INDEX requests_ended ON requests (ended_ms) WHERE status IS NOT NULL")
    db.execute(
        """
        CREATE TABLE outbox (
            key INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a late receipt must not hit a new letter
            priority INTEGER NOT NULL,     -- 0 goes first
            topic TEXT NOT NULL,
            payload BLOB NOT NULL,
            properties BLOB NOT NULL,      -- contract.mqtt5.Properties as msgpack
            bytes INTEGER NOT NULL
        ) STRICT
        """
    )
    db.execute("CREATE INDEX outbox_order ON outbox (priority, key)")
    db.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")


@migrations()
def m0002_quarantine(db: Database) -> None:
    """What engines died of: digests and names, no texts."""
    db.execute(
        """
        CREATE TABLE quarantine (
            key INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,            -- request, grammar or adapter
            id TEXT NOT NULL,              -- a digest in hex, or the adapter's name
            since_ms INTEGER NOT NULL,
            death TEXT NOT NULL,           -- how the last engine died
            grammar TEXT,                  -- of a request: what it used
            adapter TEXT,
            UNIQUE (kind, id)
        ) STRICT
        """
    )


@migrations()
def m0003_commands(db: Database) -> None:
    """Commands of the controller, so that each runs once."""
    db.execute(
        """
        CREATE TABLE commands (
            id TEXT PRIMARY KEY,
            op TEXT NOT NULL,
            exp_ms INTEGER NOT NULL,       -- on the controller's clock
            answer BLOB                    -- the letter as msgpack; NULL: it runs
        ) STRICT
        """
    )


@migrations()
def m0004_releases(db: Database) -> None:
    """Manifests of releases that are here or on their way."""
    db.execute(
        """
        CREATE TABLE releases (
            key INTEGER PRIMARY KEY,
            reference TEXT NOT NULL UNIQUE, -- name@version
            manifest BLOB NOT NULL,         -- contract.release.Release as JSON, verified before it came here
            pinned INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """
    )
