"""Operators, keys of clients, and what clients spent."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "operators",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_operators"),
    )
    op.add_column("identities", sa.Column("api_key_sha256", sa.String(64)))
    op.create_table(
        "spent",
        sa.Column("identity", sa.String(63), nullable=False),
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("identity", "day", name="pk_spent"),
        sa.ForeignKeyConstraint(["identity"], ["identities.id"], name="fk_spent_identity"),
    )
