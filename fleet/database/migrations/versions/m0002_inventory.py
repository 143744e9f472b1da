"""What nodes said, what they measured, and what is wished of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the tables."""
    _nodes()
    _telemetry()
    _wishes()


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("card", sa.Text),
        sa.Column("reported", sa.Text),
        sa.Column("reported_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_nodes"),
    )
    op.create_table(
        "events",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("eid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node", "eid", name="pk_events"),
    )
    op.create_index("ix_events_node_at_ms", "events", ["node", "at_ms"])
    op.create_index("ix_events_at_ms", "events", ["at_ms"])


def _telemetry() -> None:
    op.create_table(
        "series",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("series", sa.Text, nullable=False),
        sa.Column("last", sa.Text),
        sa.PrimaryKeyConstraint("node", "kind", name="pk_series"),
    )
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "telemetry",
        sa.Column("number", number, autoincrement=True, nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_telemetry"),
    )
    op.create_index("ix_telemetry_node_kind_at_ms", "telemetry", ["node", "kind", "at_ms"])
    op.create_index("ix_telemetry_kind_at_ms", "telemetry", ["kind", "at_ms"])
    op.create_table(
        "hourly",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("at_ms", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("adapter", sa.String(128), nullable=False),
        sa.Column("row", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node", "kind", "at_ms", "model", "adapter", name="pk_hourly"),
    )
    op.create_index("ix_hourly_kind_at_ms", "hourly", ["kind", "at_ms"])


def _wishes() -> None:
    op.create_table(
        "desired",
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("rev", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node", "rev", name="pk_desired"),
    )
    op.create_table(
        "node_groups",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("query", sa.Text),
        sa.Column("rev", sa.BigInteger, nullable=False),
        sa.Column("policy", sa.Text),
        sa.PrimaryKeyConstraint("name", name="pk_node_groups"),
    )
