"""What was spent on clouds, and what left for them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "cloud_spent",
        sa.Column("spender", sa.String(72), nullable=False),
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("nano", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("spender", "day", name="pk_cloud_spent"),
    )
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "cloud_audit",
        sa.Column("number", number, autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("client", sa.String(63), nullable=False),
        sa.Column("request", sa.String(63), nullable=False),
        sa.Column("why", sa.String(16), nullable=False),
        sa.Column("privacy", sa.String(8), nullable=False),
        sa.Column("provider", sa.String(63), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("nano", sa.BigInteger),
        sa.PrimaryKeyConstraint("number", name="pk_cloud_audit"),
    )
    op.create_index("ix_cloud_audit_at_ms", "cloud_audit", ["at_ms"])
    op.create_index("ix_cloud_audit_node_at_ms", "cloud_audit", ["node", "at_ms"])
