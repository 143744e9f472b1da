"""What adapters take in their database, and what goes when others need the room. Inside the caller's transaction."""

import sqlite3
from collections.abc import Collection

from agent.eviction import Candidate, choose

# Of each adapter: bytes of tensors that no other has, and of those that others have too.
SIZES = """
    SELECT a.sha256, a.imported_ms, a.bytes - coalesce(sum(p.num * p.bytes), 0) AS header_bytes,
        coalesce(sum(CASE WHEN p.refs = p.num THEN p.bytes END), 0) AS own_bytes,
        coalesce(sum(CASE WHEN p.refs > p.num THEN p.bytes END), 0) AS shared_bytes
    FROM adapters a LEFT JOIN (
        SELECT adapter, bytes, refs, count(*) AS num
        FROM parts JOIN tensors ON tensors.key = parts.tensor GROUP BY adapter, tensor
    ) p ON p.adapter = a.key GROUP BY a.key
"""


def stored_bytes(db: sqlite3.Connection) -> int:
    """What the budget is about: tensors, each once, and headers. The file is some percent larger."""
    tensors, headers = db.execute(
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM tensors), (SELECT coalesce(sum(length(header)), 0) FROM adapters)"
    ).fetchone()
    return int(tensors + headers)


def collect(db: sqlite3.Connection, in_use: Collection[str]) -> int:
    """Removes adapters that nothing names and nobody uses; returns how many."""
    rows = db.execute("SELECT key, sha256 FROM adapters WHERE key NOT IN (SELECT adapter FROM names)").fetchall()
    gone = [(row["key"],) for row in rows if row["sha256"] not in in_use]
    db.executemany("DELETE FROM adapters WHERE key = ?", gone)
    return len(gone)


def evict(db: sqlite3.Connection, budget_bytes: int, *, held: set[str]) -> list[str]:
    """Removes what is worth least until the budget holds; returns the digests.

    Raises:
        NotEnoughError: it cannot hold.
    """
    over = stored_bytes(db) - budget_bytes
    if over <= 0:
        return []
    rows = db.execute("SELECT sha256 FROM adapters JOIN names ON names.adapter = key WHERE pinned")
    kept = held | {row["sha256"] for row in rows}
    uses = {row["sha256"]: row for row in db.execute("SELECT sha256, uses, last_use_ms FROM uses")}
    candidates = [
        Candidate(
            key=row["sha256"],
            frees_bytes=row["header_bytes"] + row["own_bytes"],
            uses=uses[row["sha256"]]["uses"] if row["sha256"] in uses else 0.0,
            last_use_ms=uses[row["sha256"]]["last_use_ms"] if row["sha256"] in uses else row["imported_ms"],
            held=row["sha256"] in kept,
        )
        for row in db.execute(SIZES)
    ]
    gone = choose(candidates, over)
    db.executemany("DELETE FROM adapters WHERE sha256 = ?", [(sha256,) for sha256 in gone])
    return gone
