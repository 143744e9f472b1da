"""What Alembic runs: the migrations, on the connection and in the transaction that `open_database` made."""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    # Several controllers may start at once. (SQLite: the transaction holds the only lock there is.)
    connection.execute(text("SELECT pg_advisory_xact_lock(5405571)"))
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
