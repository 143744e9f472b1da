"""Rollouts, and how far each of their nodes is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "rollouts",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("number", name="pk_rollouts"),
    )
    op.create_table(
        "rollout_nodes",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", "node", name="pk_rollout_nodes"),
        sa.ForeignKeyConstraint(["number"], ["rollouts.number"], name="fk_rollout_nodes_number"),
    )
